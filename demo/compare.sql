SELECT asks AS "question", round(before::numeric, 2) AS "before, ms", round(after::numeric, 2) AS "after, ms",
       round((before / after)::numeric, 1) || 'x' AS "faster"
  FROM public.demo_question ORDER BY n;
DROP TABLE public.demo_question;
