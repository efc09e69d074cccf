/*-------------------------------------------------------------------------
 *
 * host_facts.c
 *	  How much of this machine the server may use.
 *
 * Memory and processors are what the control group allows, if that is less
 * than what the machine has: in a container /proc/meminfo shows the host's
 * memory, and a server sized by it is killed.  Limits of version 2 and
 * version 1 groups are read from the group's own directory up to the root,
 * because a limit of a parent counts as well and because a container often
 * sees its own group mounted as the root while /proc/self/cgroup still names
 * the path outside.  Whatever is not there (another system, no /sys) is
 * skipped, down to sysconf().
 *
 * Whether the disk below the data directory rotates is what the block
 * device says of itself; virtual disks and network storage mostly say
 * nothing, which is reported as not known.
 *
 * Locks: none.  Files are opened with AllocateFile(), so an error or a
 * cancel closes them.
 *
 * What it does not do: decide what to set; that is view recommended_settings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#include <sys/sysmacros.h>
#endif

#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"

#include "concertmaster.h"

/* What is known, and where each figure comes from. */
typedef struct HostFacts
{
	int64		memory;			/* bytes, 0 if not known */
	const char *memory_source;
	double		cpus;			/* may be a fraction, 0 if not known */
	const char *cpu_source;
	int			rotates;		/* 1 or 0, -1 if not known */
} HostFacts;

/* One line of /proc/self/cgroup, resolved to the directories of a group. */
typedef struct GroupPath
{
	char		mount[MAXPGPATH];	/* where the hierarchy is mounted */
	char		path[MAXPGPATH];	/* the group below it, "" for the root */
} GroupPath;

PG_FUNCTION_INFO_V1(cm_host_facts);
PG_FUNCTION_INFO_V1(cm__host_facts_under);

/* Read the first line of a file.  Returns false if there is none. */
static bool
read_line(const char *path, char *line, int size)
{
	FILE	   *file = AllocateFile(path, "r");
	bool		found;

	if (file == NULL)
		return false;
	found = fgets(line, size, file) != NULL;
	FreeFile(file);
	if (found)
		line[strcspn(line, "\n")] = '\0';
	return found;
}

/* Read a number of bytes; "max", nonsense and zero count as no limit. */
static int64
read_limit(const char *path)
{
	char		line[64];
	char	   *end;
	int64		value;

	if (!read_line(path, line, sizeof(line)))
		return 0;
	errno = 0;
	value = strtoll(line, &end, 10);
	if (errno != 0 || end == line || value <= 0)
		return 0;
	return value;
}

/* Does a comma-separated list of controllers contain this one? */
static bool
has_controller(const char *list, const char *controller)
{
	size_t		length = strlen(controller);

	while (list != NULL && *list != '\0')
	{
		if (strncmp(list, controller, length) == 0 &&
			(list[length] == ',' || list[length] == '\0'))
			return true;
		list = strchr(list, ',');
		if (list != NULL)
			list++;
	}
	return false;
}

/*
 * Find our group: of the version 1 hierarchy that has the controller, or,
 * with controller NULL, of the version 2 hierarchy.  Returns false if
 * /proc/self/cgroup names none.
 */
static bool
find_group(const char *root, const char *controller, GroupPath *group)
{
	char		line[MAXPGPATH];
	bool		found = false;
	FILE	   *file;

	snprintf(line, sizeof(line), "%s/proc/self/cgroup", root);
	file = AllocateFile(line, "r");
	if (file == NULL)
		return false;
	while (!found && fgets(line, sizeof(line), file) != NULL)
	{
		char	   *controllers = strchr(line, ':');
		char	   *path = controllers ? strchr(controllers + 1, ':') : NULL;

		if (path == NULL)
			continue;
		*controllers++ = '\0';
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (controller == NULL)
			found = strcmp(line, "0") == 0 && *controllers == '\0';
		else
			found = has_controller(controllers, controller);
		/* A path out of the visible namespace starts with /.. */
		if (found)
			strlcpy(group->path, strncmp(path, "/..", 3) == 0 ? "" : path,
					sizeof(group->path));
	}
	FreeFile(file);
	snprintf(group->mount, sizeof(group->mount), "%s/sys/fs/cgroup%s%s", root,
			 controller ? "/" : "", controller ? controller : "");
	return found;
}

/*
 * Go one group up.  Returns false when the root has been seen.
 */
static bool
group_up(GroupPath *group)
{
	char	   *slash = strrchr(group->path, '/');

	if (slash == NULL)
		return false;
	*slash = '\0';
	return true;
}

/* The least memory limit from our group to the root, 0 if there is none. */
static int64
group_memory(const char *root, bool version2)
{
	GroupPath	group;
	int64		least = 0;

	if (!find_group(root, version2 ? NULL : "memory", &group))
		return 0;
	do
	{
		char		path[MAXPGPATH * 2 + 64];
		int64		limit;

		snprintf(path, sizeof(path), "%s%s/%s", group.mount, group.path,
				 version2 ? "memory.max" : "memory.limit_in_bytes");
		limit = read_limit(path);
		if (limit > 0 && (least == 0 || limit < least))
			least = limit;
	} while (group_up(&group));
	return least;
}

/* The processors that one group may use, 0 if it sets no limit. */
static double
read_cpu_quota(const GroupPath *group, bool version2)
{
	char		path[MAXPGPATH * 2 + 64];
	char		line[128];
	double		quota = 0;
	double		period = 0;

	if (version2)
	{
		snprintf(path, sizeof(path), "%s%s/cpu.max", group->mount, group->path);
		if (!read_line(path, line, sizeof(line)) ||
			sscanf(line, "%lf %lf", &quota, &period) != 2)
			return 0;
	}
	else
	{
		snprintf(path, sizeof(path), "%s%s/cpu.cfs_quota_us", group->mount, group->path);
		quota = (double) read_limit(path);
		snprintf(path, sizeof(path), "%s%s/cpu.cfs_period_us", group->mount, group->path);
		period = (double) read_limit(path);
	}
	return (quota > 0 && period > 0) ? quota / period : 0;
}

/* The least processor limit from our group to the root, 0 if there is none. */
static double
group_cpus(const char *root, bool version2)
{
	GroupPath	group;
	double		least = 0;

	if (!find_group(root, version2 ? NULL : "cpu", &group))
		return 0;
	do
	{
		double		cpus = read_cpu_quota(&group, version2);

		if (cpus > 0 && (least == 0 || cpus < least))
			least = cpus;
	} while (group_up(&group));
	return least;
}

/* The machine's memory in bytes, 0 if it cannot be found out. */
static int64
host_memory(const char *root)
{
	char		line[256];
	int64		kilobytes = 0;
	FILE	   *file;

	snprintf(line, sizeof(line), "%s/proc/meminfo", root);
	file = AllocateFile(line, "r");
	if (file != NULL)
	{
		while (kilobytes == 0 && fgets(line, sizeof(line), file) != NULL)
			if (strncmp(line, "MemTotal:", 9) == 0)
				kilobytes = strtoll(line + 9, NULL, 10);
		FreeFile(file);
	}
	if (kilobytes > 0)
		return kilobytes * 1024;
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
	if (sysconf(_SC_PHYS_PAGES) > 0)
		return (int64) sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
#endif
	return 0;
}

/* The processors that this process may run on. */
static double
host_cpus(void)
{
#ifdef __linux__
	cpu_set_t	set;

	/* Fails on machines with more processors than the set holds. */
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		return CPU_COUNT(&set);
#endif
#ifdef _SC_NPROCESSORS_ONLN
	if (sysconf(_SC_NPROCESSORS_ONLN) > 0)
		return (double) sysconf(_SC_NPROCESSORS_ONLN);
#endif
	return 0;
}

/* Does the disk of the data directory rotate?  1, 0, or -1 if not known. */
static int
disk_rotates(const char *root)
{
#ifdef __linux__
	struct stat st;

	if (stat(DataDir, &st) == 0 && major(st.st_dev) != 0)
	{
		/* A partition has no queue of its own: its disk is one level up. */
		static const char *const levels[] = {"", "/.."};

		for (int i = 0; i < lengthof(levels); i++)
		{
			char		path[MAXPGPATH];
			char		line[16];

			snprintf(path, sizeof(path), "%s/sys/dev/block/%u:%u%s/queue/rotational",
					 root, major(st.st_dev), minor(st.st_dev), levels[i]);
			if (read_line(path, line, sizeof(line)))
				return line[0] == '1' ? 1 : 0;
		}
	}
#endif
	return -1;
}

/* Take a group's limit if it is less than what is known so far. */
static void
apply_limits(HostFacts *facts, const char *root, bool version2)
{
	int64		memory = group_memory(root, version2);
	double		cpus = group_cpus(root, version2);

	if (memory > 0 && (facts->memory == 0 || memory < facts->memory))
	{
		facts->memory = memory;
		facts->memory_source = version2 ? "cgroup v2" : "cgroup v1";
	}
	if (cpus > 0 && (facts->cpus == 0 || cpus < facts->cpus))
	{
		facts->cpus = cpus;
		facts->cpu_source = version2 ? "cgroup v2" : "cgroup v1";
	}
}

/* Build the result row of both functions. */
static Datum
facts_row(FunctionCallInfo fcinfo, const char *root)
{
	HostFacts	facts = {.memory_source = "host", .cpu_source = "host"};
	TupleDesc	tupdesc;
	Datum		values[5];
	bool		nulls[5] = {false};

	facts.memory = host_memory(root);
	facts.cpus = host_cpus();
	facts.rotates = disk_rotates(root);
	apply_limits(&facts, root, true);
	apply_limits(&facts, root, false);

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(facts.memory);
	nulls[0] = nulls[1] = facts.memory == 0;
	values[1] = CStringGetTextDatum(facts.memory_source);
	values[2] = Float8GetDatum(facts.cpus);
	nulls[2] = nulls[3] = facts.cpus == 0;
	values[3] = CStringGetTextDatum(facts.cpu_source);
	values[4] = BoolGetDatum(facts.rotates == 1);
	nulls[4] = facts.rotates < 0;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}

/* host_facts(): what this server may use. */
Datum
cm_host_facts(PG_FUNCTION_ARGS)
{
	return facts_row(fcinfo, "");
}

/* _host_facts_under(root text): the same, read below another directory. */
Datum
cm__host_facts_under(PG_FUNCTION_ARGS)
{
	return facts_row(fcinfo, text_to_cstring(PG_GETARG_TEXT_PP(0)));
}
