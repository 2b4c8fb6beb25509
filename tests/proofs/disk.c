/* Stands between a process and its disk (LD_PRELOAD): records what it writes and flushes below one folder and what it
   sends, in the order in which it happened, and lets calls fail with an error of the disk when it is told to.

   DISK_ROOT     folder that is watched
   DISK_RECORD   file that records are appended to, see power_cut.py; unset: nothing is recorded
   DISK_CONTROL  file of five 64-bit integers that another process changes while this one runs:
                 0  calls until the first that fails: 1 is the next; 0 is none; counted down
                 1  how many calls fail, from that one on
                 2  errno
                 3  number of calls that failed
                 4  1: only the files whose name holds "ledger"; 0: all

   One lock around each call and its record makes their order the order of the disk. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPENED = 1, MADE_DIRECTORY, WRITTEN, CUT_TO, FLUSHED, RENAMED, LINKED, UNLINKED, SENT, FLUSHED_ALL };

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static int record_to = -1;
static int64_t *control;



__attribute__((constructor)) static void start(void) {
    const char *record = getenv("DISK_RECORD"), *told = getenv("DISK_CONTROL");
    root = getenv("DISK_ROOT");
    if (!root) return;
    if (record) record_to = syscall(SYS_openat, AT_FDCWD, record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (told) {
        int descriptor = syscall(SYS_openat, AT_FDCWD, told, O_RDWR | O_CLOEXEC, 0);
        if (descriptor >= 0) {
            control = mmap(NULL, 5 * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
            syscall(SYS_close, descriptor);
            if (control == MAP_FAILED) control = NULL;
        }
    }
}

/* SQLite's index of its log is made anew after a crash, and locks are nobody's data. */
static int watched(const char *path) {
    size_t length = root ? strlen(root) : 0;
    if (!length || strncmp(path, root, length) || (path[length] && path[length] != '/')) return 0;
    size_t all = strlen(path);
    return !(all > 4 && !strcmp(path + all - 4, "-shm"));
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return watched(path);
}

static void record(uint8_t kind, uint64_t inode, uint64_t at, const void *one, uint64_t one_length, const void *two,
                   uint64_t two_length) {
    if (record_to < 0) return;
    unsigned char head[33];
    uint64_t numbers[4] = {inode, at, one_length, two_length};
    head[0] = kind;
    memcpy(head + 1, numbers, sizeof numbers);
    struct iovec parts[3] = {{head, sizeof head}, {(void *)one, one_length}, {(void *)two, two_length}};
    if (syscall(SYS_writev, record_to, parts, 3) != (long)(sizeof head + one_length + two_length)) abort();
}

/* Whether this call is one that fails; errno is set then. */
static int fails(const char *path) {
    if (!control || !control[0] || (control[4] && !strstr(path, "ledger"))) return 0;
    if (control[0] > 1) {
        control[0]--;
        return 0;
    }
    if (control[1] <= 0) return 0;
    control[1]--;
    control[3]++;
    errno = (int)control[2];
    return 1;
}

static uint64_t inode_of(int descriptor) {
    struct stat seen;
    return fstat(descriptor, &seen) ? 0 : seen.st_ino;
}

static int opened(const char *path, int flags, mode_t mode) {
    int writes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
    if (!writes || !watched(path)) return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    pthread_mutex_lock(&turn);
    int made = -1;
    int was_there = !syscall(SYS_faccessat, AT_FDCWD, path, F_OK);
    if (was_there || !(flags & O_CREAT) || !fails(path)) {
        made = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
        int why = errno;
        if (made >= 0 && !was_there) record(OPENED, inode_of(made), 0, path, strlen(path), NULL, 0);
        if (made >= 0 && was_there && flags & O_TRUNC) record(CUT_TO, inode_of(made), 0, NULL, 0, NULL, 0);
        errno = why;
    }
    pthread_mutex_unlock(&turn);
    return made;
}

#define OPEN                                  \
    mode_t mode = 0;                                     \
    if (flags & (O_CREAT | __O_TMPFILE)) {               \
        va_list more;                                    \
        va_start(more, flags);                           \
        mode = va_arg(more, int);                        \
        va_end(more);                                    \
    }                                                    \
    return opened(path, flags, mode);

int open(const char *path, int flags, ...) { OPEN }
int open64(const char *path, int flags, ...) { OPEN }

static ssize_t written(int descriptor, const struct iovec *parts, int count, off_t at, int has_place) {
    char path[PATH_MAX];
    if (!path_of(descriptor, path))
        return has_place ? syscall(SYS_pwritev, descriptor, parts, count, at, 0)
                         : syscall(SYS_writev, descriptor, parts, count);
    pthread_mutex_lock(&turn);
    ssize_t done = -1;
    if (!fails(path)) {
        if (!has_place) at = fcntl(descriptor, F_GETFL) & O_APPEND ? lseek(descriptor, 0, SEEK_END) : lseek(descriptor, 0, SEEK_CUR);
        done = has_place ? syscall(SYS_pwritev, descriptor, parts, count, at, 0)
                         : syscall(SYS_writev, descriptor, parts, count);
        int why = errno;
        ssize_t left = done;
        for (int number = 0; number < count && left > 0; number++) {
            size_t length = parts[number].iov_len < (size_t)left ? parts[number].iov_len : (size_t)left;
            record(WRITTEN, inode_of(descriptor), at, NULL, 0, parts[number].iov_base, length);
            at += length;
            left -= length;
        }
        errno = why;
    }
    pthread_mutex_unlock(&turn);
    return done;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    struct iovec part = {(void *)data, size};
    return written(descriptor, &part, 1, 0, 0);
}
ssize_t writev(int descriptor, const struct iovec *parts, int count) { return written(descriptor, parts, count, 0, 0); }
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t at) {
    struct iovec part = {(void *)data, size};
    return written(descriptor, &part, 1, at, 1);
}
ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t at) {
    return written(descriptor, parts, count, at, 1);
}
ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t at) {
    return written(descriptor, parts, count, at, 1);
}
/* Which Python's os.pwritev calls; without flags they are the same. */
ssize_t pwritev2(int descriptor, const struct iovec *parts, int count, off_t at, int flags) {
    return flags ? syscall(SYS_pwritev2, descriptor, parts, count, at, 0, flags) : written(descriptor, parts, count, at, 1);
}
ssize_t pwritev64v2(int descriptor, const struct iovec *parts, int count, off64_t at, int flags) {
    return pwritev2(descriptor, parts, count, at, flags);
}
ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t at) { return pwrite(descriptor, data, size, at); }

static int cut_to(int descriptor, off_t length) {
    char path[PATH_MAX];
    if (!path_of(descriptor, path)) return syscall(SYS_ftruncate, descriptor, length);
    pthread_mutex_lock(&turn);
    int done = fails(path) ? -1 : syscall(SYS_ftruncate, descriptor, length);
    if (!done) record(CUT_TO, inode_of(descriptor), length, NULL, 0, NULL, 0);
    pthread_mutex_unlock(&turn);
    return done;
}
int ftruncate(int descriptor, off_t length) { return cut_to(descriptor, length); }
int ftruncate64(int descriptor, off64_t length) { return cut_to(descriptor, length); }

static int flushed(int descriptor, long call) {
    char path[PATH_MAX];
    if (!path_of(descriptor, path)) return syscall(call, descriptor);
    pthread_mutex_lock(&turn);
    int done = fails(path) ? -1 : syscall(call, descriptor);
    /* Of a directory its path says more than its number. */
    if (!done) record(FLUSHED, inode_of(descriptor), 0, path, strlen(path), NULL, 0);
    pthread_mutex_unlock(&turn);
    return done;
}
int fsync(int descriptor) { return flushed(descriptor, SYS_fsync); }
int fdatasync(int descriptor) { return flushed(descriptor, SYS_fdatasync); }
int syncfs(int descriptor) {
    char path[PATH_MAX];
    if (!path_of(descriptor, path)) return syscall(SYS_syncfs, descriptor);
    pthread_mutex_lock(&turn);
    int done = fails(path) ? -1 : syscall(SYS_syncfs, descriptor);
    if (!done) record(FLUSHED_ALL, 0, 0, path, strlen(path), NULL, 0);
    pthread_mutex_unlock(&turn);
    return done;
}

static uint64_t inode_at(const char *path) {
    struct stat seen;
    return lstat(path, &seen) ? 0 : seen.st_ino;
}

int rename(const char *from, const char *to) {
    if (!watched(to)) return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    pthread_mutex_lock(&turn);
    uint64_t inode = inode_at(from);
    int done = fails(to) ? -1 : syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!done) record(RENAMED, inode, 0, from, strlen(from), to, strlen(to));
    pthread_mutex_unlock(&turn);
    return done;
}
int link(const char *from, const char *to) {
    if (!watched(to)) return syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
    pthread_mutex_lock(&turn);
    int done = fails(to) ? -1 : syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!done) record(LINKED, inode_at(to), 0, from, strlen(from), to, strlen(to));
    pthread_mutex_unlock(&turn);
    return done;
}
int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    return from_at == AT_FDCWD && to_at == AT_FDCWD && !flags ? link(from, to)
                                                              : syscall(SYS_linkat, from_at, from, to_at, to, flags);
}
int unlink(const char *path) {
    if (!watched(path)) return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&turn);
    int done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!done) record(UNLINKED, 0, 0, path, strlen(path), NULL, 0);
    pthread_mutex_unlock(&turn);
    return done;
}
int mkdir(const char *path, mode_t mode) {
    if (!watched(path)) return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    pthread_mutex_lock(&turn);
    int done = fails(path) ? -1 : syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (!done) record(MADE_DIRECTORY, 0, 0, path, strlen(path), NULL, 0);
    pthread_mutex_unlock(&turn);
    return done;
}

ssize_t send(int descriptor, const void *data, size_t size, int flags) {
    /* Recorded before it leaves: nobody can have read it earlier. */
    if (record_to >= 0 && root) {
        pthread_mutex_lock(&turn);
        record(SENT, 0, 0, data, size, NULL, 0);
        pthread_mutex_unlock(&turn);
    }
    return syscall(SYS_sendto, descriptor, data, size, flags, NULL, 0);
}
