/*-------------------------------------------------------------------------
 *
 * pace_disk.c
 *	  Free disk where large work writes: the tablespace, what is sorted, WAL.
 *
 * All that is written goes through WAL too.  Of WAL about max_wal_size is kept
 * at a time, unless somebody holds it back: a replication slot that nobody
 * reads from, or an archiver that fails.  Then what the work writes is there
 * twice.  Places on one file system add up.
 *
 * Free is what the server's user can still get, as statvfs() says.  That is a
 * moment's figure; what others write meanwhile, and that the need is an
 * estimate, is what the floor is for.
 *
 * The floor is concertmaster.min_free_disk: a size, or per cent of each file
 * system.  Below it, or where the work would lead below it, is an error and
 * not a wait: time alone frees nothing.
 *
 * Locks: none.  statvfs() of a file system on a dead network hangs, as
 * everything else of the server does there.  Nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "access/xlog.h"
#include "catalog/pg_tablespace_d.h"
#include "commands/tablespace.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "concertmaster.h"
#include "pace_parts.h"

/* Of one setting of temp_tablespaces, so many are looked at. */
#define MAX_TEMP_TABLESPACES	8

/* A value of concertmaster.min_free_disk. */
typedef struct DiskFloor
{
	int64		bytes;			/* 0: see per_cent; both 0: nothing is asked */
	double		per_cent;		/* of the file system */
} DiskFloor;

/* Read a value of the setting.  What is wrong with it, a sentence, or NULL. */
static const char *
parse_floor(const char *text, DiskFloor *floor)
{
	char	   *end;
	double		number = strtod(text, &end);
	double		megabytes;

	*floor = (DiskFloor) {0};
	if (end == text || isnan(number) || number < 0)
		return "It begins with a number that is not negative.";
	while (isspace((unsigned char) *end))
		end++;
	if (*end == '%')
	{
		for (end++; isspace((unsigned char) *end);)
			end++;
		if (*end != '\0' || number > 90)
			return "A share of the file system is a number between 0 and 90 and \"%\".";
		floor->per_cent = number;
		return NULL;
	}
	if (*end == '\0' && number != 0)
		return "The number has no unit.";
	if (!parse_real(text, &megabytes, GUC_UNIT_MB, NULL) || megabytes > 1024.0 * 1024 * 1024 * 1024)
		return "Units are \"B\", \"kB\", \"MB\", \"GB\", \"TB\" and \"%\".";
	floor->bytes = (int64) (megabytes * 1024 * 1024);
	return NULL;
}

/* Check hook of concertmaster.min_free_disk. */
bool
cm_check_min_free_disk(char **newval, void **extra, GucSource source)
{
	DiskFloor floor;
	const char *wrong = parse_floor(*newval, &floor);

	if (wrong == NULL)
		return true;
	GUC_check_errdetail("%s", wrong);
	GUC_check_errhint("For instance \"20GB\" or \"5%%\"; 0 for no check.");
	return false;
}

/* The setting's value, which its check has seen. */
static DiskFloor
current_floor(void)
{
	DiskFloor floor;

	if (parse_floor(cm_min_free_disk, &floor) != NULL)
		elog(ERROR, "invalid value of concertmaster.min_free_disk: \"%s\"", cm_min_free_disk);
	return floor;
}

/* A size as people read it. */
char *
cm_size_text(int64 bytes)
{
	return TextDatumGetCString(DirectFunctionCall1(pg_size_pretty, Int64GetDatum(bytes)));
}

/* One more place where so much is written; places on one file system are one. */
static List *
add_place(List *disks, const char *name, const char *path, int64 bytes)
{
	struct stat st;
	struct statvfs vfs;
	DiskFloor floor = current_floor();
	CmDisk	   *disk;
	ListCell   *lc;

	if (stat(path, &st) != 0 || statvfs(path, &vfs) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not look up the file system of \"%s\": %m", path)));
	foreach(lc, disks)
	{
		disk = lfirst(lc);
		if (disk->device != (uint64) st.st_dev)
			continue;
		disk->needed += bytes;
		if (strstr(disk->name, name) == NULL)
			disk->name = psprintf("%s, %s", disk->name, name);
		return disks;
	}
	disk = palloc0(sizeof(CmDisk));
	disk->name = pstrdup(name);
	disk->device = (uint64) st.st_dev;
	disk->size = (int64) vfs.f_blocks * (int64) vfs.f_frsize;
	disk->free = (int64) vfs.f_bavail * (int64) vfs.f_frsize;
	disk->floor = floor.bytes > 0 ? floor.bytes : (int64) (disk->size * floor.per_cent / 100.0);
	disk->needed = bytes;
	return lappend(disks, disk);
}

static List *
add_tablespace(List *disks, Oid tablespace, int64 bytes)
{
	char	   *name = get_tablespace_name(tablespace);

	if (name == NULL)
		return disks;
	return add_place(disks, psprintf("tablespace \"%s\"", name),
					 tablespace == DEFAULTTABLESPACE_OID ? "base" :
					 tablespace == GLOBALTABLESPACE_OID ? "global" :
					 psprintf("pg_tblspc/%u", tablespace), bytes);
}

/* Where this session sorts: each of them, as it takes one by chance. */
static List *
add_temp_tablespaces(List *disks, int64 bytes)
{
	Oid			tablespaces[MAX_TEMP_TABLESPACES];
	int			count;

	PrepareTempTablespaces();
	count = GetTempTablespaces(tablespaces, MAX_TEMP_TABLESPACES);
	if (count <= 0)
		return add_tablespace(disks, MyDatabaseTableSpace, bytes);
	for (int i = 0; i < count; i++)
		disks = add_tablespace(disks, OidIsValid(tablespaces[i]) ? tablespaces[i] : MyDatabaseTableSpace, bytes);
	return disks;
}

/* Why WAL is not removed, a sentence; NULL: it is.  In a transaction. */
static char *
wal_is_kept(void)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *reason = NULL;
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute("SELECT format('WAL is kept for replication slot \"%s\", from which nobody reads.', slot_name)"
				"  FROM pg_replication_slots"
				" WHERE NOT active AND restart_lsn IS NOT NULL AND wal_status IS DISTINCT FROM 'lost'"
				" UNION ALL "
				"SELECT 'WAL is kept because archiving it fails.' FROM pg_stat_archiver"
				" WHERE current_setting('archive_mode') <> 'off'"
				"   AND last_failed_time > coalesce(last_archived_time, '-infinity')", true, 1);
	if (SPI_processed > 0)
		reason = MemoryContextStrdup(caller, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	cm_scope_leave(&scope);
	return reason;
}

/*
 * The file systems that work writes to, and how much; with need NULL those of
 * all tablespaces, and nothing.  *wal_kept: why WAL is not removed, or NULL.
 * In a transaction.
 */
List *
cm_disks_look(const CmPaceNeed *need, char **wal_kept)
{
	List	   *disks = NIL;
	int64		wal = 0;

	*wal_kept = wal_is_kept();
	if (need != NULL)
	{
		disks = add_tablespace(disks, OidIsValid(need->tablespace) ? need->tablespace : MyDatabaseTableSpace, need->bytes);
		if (need->sort_bytes > 0)
			disks = add_temp_tablespaces(disks, need->sort_bytes);
		wal = *wal_kept != NULL ? need->bytes : Min(need->bytes, max_wal_size_mb * INT64CONST(1048576));
	}
	else
	{
		Oid		   *tablespaces;
		uint64		count;
		MemoryContext caller = CurrentMemoryContext;
		CmScope		scope;

		cm_catalog_enter(&scope);
		SPI_execute("SELECT oid FROM pg_tablespace WHERE spcname <> 'pg_global' ORDER BY oid", true, 0);
		count = SPI_processed;
		tablespaces = MemoryContextAlloc(caller, sizeof(Oid) * Max(1, count));
		for (uint64 i = 0; i < count; i++)
		{
			bool		isnull;

			tablespaces[i] = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		}
		cm_scope_leave(&scope);
		for (uint64 i = 0; i < count; i++)
			disks = add_tablespace(disks, tablespaces[i], 0);
	}
	return add_place(disks, "WAL", "pg_wal", wal);
}

/* Is there no room for what is needed? */
bool
cm_disk_is_short(const CmDisk *disk)
{
	return disk->free - disk->needed < disk->floor;
}

/* Is there the room that work needs?  In a transaction. */
bool
cm_pace_has_room(const CmPaceNeed *need)
{
	DiskFloor	floor = current_floor();
	char	   *wal_kept;
	ListCell   *lc;

	if (floor.bytes == 0 && floor.per_cent == 0)
		return true;
	foreach(lc, cm_disks_look(need, &wal_kept))
	{
		if (cm_disk_is_short(lfirst(lc)))
			return false;
	}
	return true;
}

/* An error if there is not.  In a transaction. */
void
cm_disks_require(const CmPaceNeed *need)
{
	DiskFloor floor = current_floor();
	char	   *wal_kept;
	ListCell   *lc;

	if (floor.bytes == 0 && floor.per_cent == 0)
		return;
	foreach(lc, cm_disks_look(need, &wal_kept))
	{
		const CmDisk *disk = lfirst(lc);

		if (!cm_disk_is_short(disk))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("too little free disk space for %s", need->what),
				 errdetail("%s: %s of %s are free, about %s are needed, and %s have to stay free.%s%s",
						   disk->name, cm_size_text(disk->free), cm_size_text(disk->size),
						   cm_size_text(disk->needed), cm_size_text(disk->floor),
						   wal_kept ? "  " : "", wal_kept ? wal_kept : ""),
				 errhint("Make room there, or lower concertmaster.min_free_disk, which is \"%s\".", cm_min_free_disk)));
	}
}
