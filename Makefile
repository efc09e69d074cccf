# concertmaster: built with PGXS.  Only building and installing live here; the
# rest is in dev/*.sh.  The version is read from concertmaster.control alone.
#
#   make && make install        build for the server of PG_CONFIG, install it
#   make test                   the whole suite on a throwaway server
#   make test-versions          the same on PostgreSQL 17 and 18 in chroots
#   make test-soak              a million random writes against tracked views; STEPS=n for others
#   make demo, make demo-stop   a throwaway server with everything to look at

EXTENSION = concertmaster
OWN_VERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" concertmaster.control)

MODULE_big = concertmaster
OWN_HEADERS = $(wildcard src/*.h src/import/*.h)
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/import/*.c)))

SCRIPT = concertmaster--$(OWN_VERSION).sql
SCRIPT_PARTS = $(sort $(wildcard sql/[0-9]*.sql))
DATA = $(wildcard sql/updates/*.sql)
DATA_built = $(SCRIPT)
EXTRA_CLEAN = $(wildcard concertmaster--*.sql)

PG_CPPFLAGS = -Isrc -DCM_VERSION='"$(OWN_VERSION)"'
PG_CFLAGS = -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers

# Bitcode is of use only to the JIT, which never sees these functions.
with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
ifeq ($(PGXS),)
# No server to build for yet: the targets below bring one.
all install clean:
	@echo "no PostgreSQL server to build for at $(PG_CONFIG): run dev/preflight.sh" >&2; exit 1
else
include $(PGXS)
endif

$(OBJS): $(OWN_HEADERS)

$(SCRIPT): $(SCRIPT_PARTS) concertmaster.control
	cat $(SCRIPT_PARTS) > $@

export PG_CONFIG

.PHONY: test test-versions test-soak lint demo demo-stop

test:
	dev/test.sh

test-versions:
	dev/chroot.sh 17
	dev/chroot.sh 18

STEPS = 1000000
test-soak:
	CONCERTMASTER_STEPS=$(STEPS) dev/test.sh tap 063_matview_random

lint:
	dev/test.sh lint

# make demo DATA=folder loads that folder's files instead of made-up data.
demo:
	dev/demo.sh start $(if $(filter command,$(origin DATA)),$(DATA))

demo-stop:
	dev/demo.sh stop

clean: clean-build
.PHONY: clean-build
clean-build:
	rm -rf build
