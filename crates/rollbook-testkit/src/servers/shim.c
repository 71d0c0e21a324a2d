/* A library that is loaded before the C library and injects faults of disk and clock, as a test says.
 *
 * The test writes numbers into a shared page (see shim.rs, which has the same order). They take effect at once.
 * Only files with a path that contains $SHIM_FILES are affected. For every flushed file, $SHIM_FOLDER/synced
 * has what a power failure would leave of it: its length, or its bytes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct controls {
    int64_t sync_delay_ms; /* delay of every flush, in milliseconds */
    int64_t sync_failures; /* number of flushes that still fail with EIO */
    int64_t room;          /* bytes by which files may still grow; negative: no limit */
    int64_t clock_ms;      /* how far the wall clock is ahead, in milliseconds */
    int64_t lies;          /* 1: flushes report success and do nothing */
    int64_t record;        /* record of flushed files: 1 lengths, 2 bytes */
    int64_t syncs;         /* successful flushes */
    int64_t failed_syncs;  /* flushes that the shim made fail */
    int64_t refused;       /* writes refused for lack of room */
};

static struct controls *controls;
/* Copies: Redis overwrites its environment with its title. */
static char folder[2048], files[256];

__attribute__((constructor)) static void start(void) {
    char path[4096];
    if (!getenv("SHIM_FOLDER") || !getenv("SHIM_FILES")) return;
    snprintf(folder, sizeof folder, "%s", getenv("SHIM_FOLDER"));
    snprintf(files, sizeof files, "%s", getenv("SHIM_FILES"));
    snprintf(path, sizeof path, "%s/controls", folder);
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *controls, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) controls = page;
}

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

/* Gets the path of an affected file; returns 0 for all others. */
static int path_of(int file, char *path, size_t size) {
    char link[64];
    struct stat status;
    if (!controls || fstat(file, &status) || !S_ISREG(status.st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, size - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strstr(path, files) != NULL;
}

/* -- flushing -- */

/* Writes the current content or length to a temporary file. No second descriptor of the file is opened: closing
 * one would drop the locks that SQLite holds on it. */
static int write_record(int file, const char *temporary) {
    int out = open(temporary, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
    if (out < 0) return -1;
    struct stat status;
    int failed = fstat(file, &status);
    if (!failed && controls->record == 1) {
        failed = dprintf(out, "%lld", (long long) status.st_size) < 0;
    } else {
        static __thread char buffer[1 << 16];
        off_t at = 0;
        ssize_t count;
        while (!failed && (count = pread(file, buffer, sizeof buffer, at)) > 0) {
            /* Uses the system call itself: the write of this library could be refused for lack of room. */
            failed = syscall(SYS_write, out, buffer, (size_t) count) != count;
            at += count;
        }
    }
    close(out);
    return failed ? -1 : 0;
}

static int flush(int file, int (*real)(int)) {
    char path[4096], temporary[4200], record[4200];
    if (!path_of(file, path, sizeof path)) return real(file);
    if (controls->sync_delay_ms > 0) {
        struct timespec wait = {controls->sync_delay_ms / 1000, controls->sync_delay_ms % 1000 * 1000000};
        nanosleep(&wait, NULL);
    }
    if (__atomic_load_n(&controls->sync_failures, __ATOMIC_SEQ_CST) > 0 &&
        __atomic_fetch_sub(&controls->sync_failures, 1, __ATOMIC_SEQ_CST) > 0) {
        __atomic_fetch_add(&controls->failed_syncs, 1, __ATOMIC_SEQ_CST);
        errno = EIO;
        return -1;
    }
    if (controls->lies) return 0;
    int recorded = 0;
    if (controls->record) {
        snprintf(temporary, sizeof temporary, "%s/temporary-%ld", folder, (long) syscall(SYS_gettid));
        snprintf(record, sizeof record, "%s/synced/%s", folder, strrchr(path, '/') + 1);
        recorded = write_record(file, temporary) == 0;
    }
    int result = real(file);
    if (result == 0 && recorded) rename(temporary, record);
    if (result == 0) __atomic_fetch_add(&controls->syncs, 1, __ATOMIC_SEQ_CST);
    return result;
}

int fdatasync(int file) { return flush(file, REAL(fdatasync)); }
int fsync(int file) { return flush(file, REAL(fsync)); }

/* -- a full disk: files may not grow beyond the room -- */

static off_t position(int file) {
    struct stat status;
    if (fcntl(file, F_GETFL) & O_APPEND) return fstat(file, &status) ? 0 : status.st_size;
    return lseek(file, 0, SEEK_CUR);
}

/* Returns how many of these bytes may be written, or -1 for none. */
static ssize_t allow(int file, off_t at, size_t count) {
    char path[4096];
    struct stat status;
    if (!controls || controls->room < 0 || count == 0) return (ssize_t) count;
    if (!path_of(file, path, sizeof path) || fstat(file, &status)) return (ssize_t) count;
    int64_t growth = at + (int64_t) count - status.st_size;
    if (growth <= 0) return (ssize_t) count;
    int64_t room = __atomic_load_n(&controls->room, __ATOMIC_SEQ_CST);
    int64_t granted = growth < room ? growth : room;
    int64_t allowed = (int64_t) count - growth + granted;
    if (granted < growth) __atomic_fetch_add(&controls->refused, 1, __ATOMIC_SEQ_CST);
    if (room >= 0) __atomic_fetch_sub(&controls->room, granted, __ATOMIC_SEQ_CST);
    if (allowed > 0) return (ssize_t) allowed;
    errno = ENOSPC;
    return -1;
}

ssize_t write(int file, const void *bytes, size_t count) {
    ssize_t allowed = !controls || controls->room < 0 ? (ssize_t) count : allow(file, position(file), count);
    return allowed < 0 ? -1 : REAL(write)(file, bytes, (size_t) allowed);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) {
    ssize_t allowed = allow(file, at, count);
    return allowed < 0 ? -1 : REAL(pwrite)(file, bytes, (size_t) allowed, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) { return pwrite(file, bytes, count, at); }

/* Several pieces are written completely or not at all. */
static ssize_t total(const struct iovec *pieces, int count) {
    ssize_t sum = 0;
    for (int piece = 0; piece < count; piece++) sum += (ssize_t) pieces[piece].iov_len;
    return sum;
}

static int allow_all(int file, off_t at, ssize_t count) {
    if (allow(file, at, (size_t) count) == count) return 1;
    errno = ENOSPC;
    return 0;
}

ssize_t writev(int file, const struct iovec *pieces, int count) {
    if (controls && controls->room >= 0 && !allow_all(file, position(file), total(pieces, count))) return -1;
    return REAL(writev)(file, pieces, count);
}

ssize_t pwritev(int file, const struct iovec *pieces, int count, off_t at) {
    return allow_all(file, at, total(pieces, count)) ? REAL(pwritev)(file, pieces, count, at) : -1;
}

ssize_t pwritev64(int file, const struct iovec *pieces, int count, off64_t at) {
    return pwritev(file, pieces, count, at);
}

int posix_fallocate(int file, off_t at, off_t length) {
    return allow_all(file, at, length) ? REAL(posix_fallocate)(file, at, length) : ENOSPC;
}

int posix_fallocate64(int file, off64_t at, off64_t length) { return posix_fallocate(file, at, length); }

/* -- the wall clock -- */

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int) syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && controls && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        now->tv_sec += controls->clock_ms / 1000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = (int) syscall(SYS_gettimeofday, now, zone);
    if (result == 0 && controls) now->tv_sec += controls->clock_ms / 1000;
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
