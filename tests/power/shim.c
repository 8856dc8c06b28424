/*
 * Stands between a process and libc for every path below one folder, and does three things there:
 *
 *   it RECORDS each change in one total order, with its bytes, to a log outside the folder;
 *   it makes calls FAIL, or the disk be full, as it is told;
 *   it KILLS the process before, after or in the middle of a chosen call.
 *
 * The calls that change something run one at a time, so that the order in the log is the order in which they happened, and so
 * that a process that is killed here has no other change under way: the log and the folder never differ.
 *
 *   SHIM_ROOT   the folder, absolute and without symbolic links
 *   SHIM_LOG    the log; it is appended to (unset: nothing is recorded)
 *   SHIM_MARKS  a file that, opened for appending, takes marks: its writes are recorded as such, and taken as commands where
 *               they begin with '!' (see `command`); reading it answers how often calls failed
 *   SHIM_BOOT   what is read instead of /proc/sys/kernel/random/boot_id
 *   SHIM_KILL   N:PHASE, the process dies at the N-th change; PHASE 0 before it, 1 after it, 2 in the middle of a write
 *   SHIM_KILL_FROM  a path below the root: only changes of names and syncs count, from the first that makes or takes this name on
 *   SHIM_KILL_AFTER  microseconds after which the process dies, whatever it is at
 *   SHIM_DEADLINE  seconds until the process ends with SIGALRM; 120 if nothing is said
 *   SHIM_ELSEWHERE  a folder below SHIM_ROOT that is as on another filesystem: nothing is linked across its border
 *   SHIM_UNDO   if set, a sync that was made to fail has lost what it should have written: the bytes are back to what they
 *               were when the process asks for cached pages to be dropped (posix_fadvise)
 *
 * record.rs reads the log. What is not modelled is recorded as such, and makes the reading fail.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { LIFE = 1, OPEN, WRITE, TRUNCATE, RENAME, UNLINK, RMDIR, MKDIR, LINK, SYNC, MARK, ALLOCATE, FOREIGN, FAILED_SYNC, REVERT };

/* What can be made to fail; a fault names a set of these. faults.rs has the same table. */
enum {
    C_WRITE = 1, C_SYNC = 2, C_OPEN = 4, C_READ = 8, C_RENAME = 16, C_UNLINK = 32, C_MKDIR = 64, C_TRUNCATE = 128,
    C_SPACE = 256, C_ALLOCATE = 512, C_RANGE = 1024,
};

struct head {
    uint32_t magic, kind;
    uint64_t file;
    int64_t a, b;
    uint32_t first, second;
    uint64_t bytes;
};

#define FDS 4096
#define PAGE 4096
/* A page that differs from the disk: dirty, or lost by a sync that failed, and what the disk has of it. */
struct page { struct page *next; off_t number; int dirty, lost; char disk[PAGE]; };
struct open_file { uint64_t id; dev_t device; ino_t inode; int marks; };

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static struct open_file files[FDS];
static uint64_t next_id = 1;
static char root[PATH_MAX], marks[PATH_MAX], boot[PATH_MAX], elsewhere[PATH_MAX], kill_from[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static long kill_at, kill_phase, changes;
static int undo_wanted;

/* The fault: the `fail_at`-th call of `fail_set` from the command on, or from there on all of them. */
static int fail_set, fail_errno, fail_mode, fail_for_ever;
static long fail_at, fail_count, fail_hits;
/* The disk: how many bytes may still be written, and whether statvfs tells. -1: there is no limit. */
static long long budget = -1;
static int budget_lies;

/* The pages of each file that differ from the disk. */
#define UNDO_FILES 512
static struct { dev_t device; ino_t inode; struct page *pages; } undo_files[UNDO_FILES];

static void die(const char *why) {
    dprintf(2, "shim: %s\n", why);
    _exit(99);
}

static void emit(uint32_t kind, uint64_t file, int64_t a, int64_t b, const char *first, const char *second,
                 const void *bytes, size_t length) {
    if (log_fd < 0) return;
    struct head head = {0x53484d31, kind, file, a, b, first ? strlen(first) : 0, second ? strlen(second) : 0, length};
    struct iovec parts[4] = {{&head, sizeof head}, {(void *)first, head.first}, {(void *)second, head.second}, {(void *)bytes, length}};
    size_t total = sizeof head + head.first + head.second + length;
    if (syscall(SYS_writev, log_fd, parts, 4) != (ssize_t)total) die("the log takes no more");
}

__attribute__((constructor)) static void start(void) {
    const char *value = getenv("SHIM_ROOT");
    if (!value) return;
    snprintf(root, sizeof root, "%s", value);
    root_length = strlen(root);
    if ((value = getenv("SHIM_MARKS"))) snprintf(marks, sizeof marks, "%s", value);
    if ((value = getenv("SHIM_ELSEWHERE"))) snprintf(elsewhere, sizeof elsewhere, "%s", value);
    if ((value = getenv("SHIM_BOOT"))) snprintf(boot, sizeof boot, "%s", value);
    if ((value = getenv("SHIM_KILL")) && sscanf(value, "%ld:%ld", &kill_at, &kill_phase) != 2) die("SHIM_KILL");
    if ((value = getenv("SHIM_KILL_FROM"))) snprintf(kill_from, sizeof kill_from, "%s", value);
    undo_wanted = getenv("SHIM_UNDO") != NULL;
    if ((value = getenv("SHIM_KILL_AFTER"))) {
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
        struct itimerspec when = {.it_value = {atol(value) / 1000000, atol(value) % 1000000 * 1000}};
        timer_t timer;
        if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &when, NULL)) die("no timer");
    }
    /* A process that hangs ends with a signal of its own. */
    alarm((value = getenv("SHIM_DEADLINE")) ? atoi(value) : 120);
    if ((value = getenv("SHIM_LOG"))) {
        int fd = syscall(SYS_openat, AT_FDCWD, value, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd < 0) die("the log cannot be opened");
        /* Out of the way of what the program opens. */
        log_fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900);
        syscall(SYS_close, fd);
        emit(LIFE, 0, 0, 0, NULL, NULL, NULL, 0);
    }
}

static void lock(void) { pthread_mutex_lock(&turn); }
static void unlock(void) { pthread_mutex_unlock(&turn); }

/* The path below the root, or NULL where it is none of ours. */
static const char *ours(int dir, const char *path, char *room) {
    if (!root_length) return NULL;
    if (path[0] == '/') {
        snprintf(room, PATH_MAX, "%s", path);
    } else {
        char link[64], base[PATH_MAX];
        ssize_t length;
        if (dir == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        length = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
        if (length < 0) return NULL;
        base[length] = 0;
        if ((size_t)snprintf(room, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return NULL;
    }
    if (strncmp(room, root, root_length) || (room[root_length] && room[root_length] != '/')) return NULL;
    size_t length = strlen(room);
    while (length > root_length && room[length - 1] == '/') room[--length] = 0;
    return room[root_length] ? room + root_length + 1 : room + root_length;
}

/* The file behind a descriptor; descriptors are closed and used again behind our back (closedir), so it is looked at. */
static struct open_file *file_of(int fd) {
    if (fd < 0 || fd >= FDS || !files[fd].id) return NULL;
    struct stat stat;
    if (syscall(SYS_fstat, fd, &stat) || stat.st_dev != files[fd].device || stat.st_ino != files[fd].inode) {
        files[fd].id = 0;
        return NULL;
    }
    return &files[fd];
}

static void remember(int fd, uint64_t id, int is_marks) {
    if (fd >= FDS) die("a descriptor beyond the table");
    struct stat stat;
    if (syscall(SYS_fstat, fd, &stat)) die("fstat");
    files[fd] = (struct open_file){id, stat.st_dev, stat.st_ino, is_marks};
}

/* Whether this call is to fail; errno says how. Mode 1 is a short write, mode 2 a write that fails half-way. */
static int faulty(int class) {
    if (!(fail_set & class)) return 0;
    long count = ++fail_count;
    if (count != fail_at && !(fail_for_ever && count > fail_at)) return 0;
    fail_hits++;
    errno = fail_errno;
    return 1;
}

/* `name` is what is made or removed or given, and NULL where bytes alone change. */
static int about_to_change(const char *name) {
    if (kill_from[0]) {
        if (!name || (!changes && strcmp(name, kill_from))) return 0;
    }
    changes++;
    if (kill_at == changes && kill_phase == 0) raise(SIGKILL);
    return kill_at == changes;
}

static void changed(void) {
    if (kill_at == changes) raise(SIGKILL);
}

static off_t size_of(int fd) {
    struct stat stat;
    return syscall(SYS_fstat, fd, &stat) ? 0 : stat.st_size;
}

static int undo_slot(struct open_file *file, int make) {
    int empty = -1;
    for (int at = 0; at < UNDO_FILES; at++) {
        if (undo_files[at].device == file->device && undo_files[at].inode == file->inode) return at;
        if (empty < 0 && !undo_files[at].inode) empty = at;
    }
    if (!make) return -1;
    if (empty < 0) die("too many files to undo");
    undo_files[empty].device = file->device;
    undo_files[empty].inode = file->inode;
    return empty;
}

/* To be called before a write. */
static void undo_dirty(int fd, struct open_file *file, off_t offset, off_t length) {
    if (!undo_wanted || length <= 0) return;
    int at = undo_slot(file, 1), reading = -1;
    for (off_t number = offset / PAGE; number <= (offset + length - 1) / PAGE; number++) {
        struct page *page = undo_files[at].pages;
        while (page && page->number != number) page = page->next;
        if (!page) {
            if (reading < 0) {
                char link[64];
                snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
                reading = syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
            }
            page = calloc(1, sizeof *page);
            page->number = number;
            if (syscall(SYS_pread64, reading, page->disk, PAGE, number * PAGE) < 0) die("a page cannot be read");
            page->next = undo_files[at].pages;
            undo_files[at].pages = page;
        }
        page->dirty = 1;
    }
    if (reading >= 0) syscall(SYS_close, reading);
}

/* A sync that succeeded has written what is dirty, and that alone; one that failed has lost it, and it is dirty no more. */
static void undo_synced(struct open_file *file, int succeeded) {
    int at = undo_wanted ? undo_slot(file, 0) : -1;
    if (at < 0) return;
    for (struct page **link = &undo_files[at].pages; *link;) {
        struct page *page = *link;
        if (page->dirty && succeeded) {
            *link = page->next;
            free(page);
            continue;
        }
        page->lost |= page->dirty;
        page->dirty = 0;
        link = &page->next;
    }
    if (!undo_files[at].pages) undo_files[at].inode = 0;
}

/* The pages that a failed sync lost are read from the disk again: they are what they were. Dirty ones stay. */
static void undo_lost(int fd, struct open_file *file) {
    int at = undo_wanted ? undo_slot(file, 0) : -1, writing = -1;
    if (at < 0) return;
    for (struct page **link = &undo_files[at].pages; *link;) {
        struct page *page = *link;
        if (page->dirty || !page->lost) {
            link = &page->next;
            continue;
        }
        if (writing < 0) {
            char path[64];
            snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
            writing = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
        }
        off_t start = page->number * PAGE, left = size_of(fd) - start;
        if (left > 0) syscall(SYS_pwrite64, writing, page->disk, left < PAGE ? left : PAGE, start);
        emit(REVERT, file->id, start, 0, NULL, NULL, NULL, 0);
        *link = page->next;
        free(page);
    }
    if (writing >= 0) syscall(SYS_close, writing);
}

/* Commands: "!fail SET AT MODE ERRNO FOR_EVER", "!well", "!budget BYTES LIES", "!plenty". */
static void command(const char *text, size_t length) {
    char line[200];
    snprintf(line, sizeof line, "%.*s", (int)length, text);
    if (sscanf(line, "!fail %d %ld %d %d %d", &fail_set, &fail_at, &fail_mode, &fail_errno, &fail_for_ever) == 5) {
        fail_count = fail_hits = 0;
    } else if (!strncmp(line, "!well", 5)) {
        fail_set = 0;
    } else if (!strncmp(line, "!plenty", 7)) {
        budget = -1;
    } else if (sscanf(line, "!budget %lld %d", &budget, &budget_lies) != 2) {
        die("a command that is none");
    }
}

static int open_in(int dir, const char *path, int flags, mode_t mode) {
    if (boot[0] && !strcmp(path, "/proc/sys/kernel/random/boot_id")) path = boot;
    char room[PATH_MAX];
    const char *below = ours(dir, path, room);
    int is_marks = marks[0] && flags & O_APPEND && !strcmp(path, marks);
    lock();
    if (below && faulty(C_OPEN)) {
        unlock();
        return -1;
    }
    int changing = below && flags & (O_CREAT | O_TRUNC);
    if (changing) about_to_change(below);
    int fd = syscall(SYS_openat, dir, path, flags, mode), error = errno;
    if (fd >= 0 && fd < FDS) files[fd].id = 0;
    if (fd >= 0 && (below || is_marks)) {
        uint64_t id = next_id++;
        remember(fd, id, is_marks);
        if (below && (flags & O_TMPFILE) == O_TMPFILE) emit(FOREIGN, 0, 0, 0, "O_TMPFILE", NULL, NULL, 0);
        if (below) emit(OPEN, id, flags, 0, below, NULL, NULL, 0);
    }
    if (changing) changed();
    unlock();
    errno = error;
    return fd;
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); }

int open(const char *path, int flags, ...) { MODE return open_in(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return open_in(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE return open_in(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE return open_in(dir, path, flags | O_LARGEFILE, mode); }
int creat(const char *path, mode_t mode) { return open_in(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

DIR *opendir(const char *path) {
    static DIR *(*next)(const char *);
    if (!next) next = dlsym(RTLD_NEXT, "opendir");
    char room[PATH_MAX];
    if (ours(AT_FDCWD, path, room)) {
        lock();
        int failed = faulty(C_OPEN);
        unlock();
        if (failed) return NULL;
    }
    return next(path);
}

static void duplicate(int from, int to) {
    if (to < 0 || to >= FDS) return;
    files[to].id = 0;
    if (file_of(from)) files[to] = files[from];
}

int close(int fd) {
    lock();
    if (fd >= 0 && fd < FDS) files[fd].id = 0;
    int result = syscall(SYS_close, fd), error = errno;
    unlock();
    errno = error;
    return result;
}

int dup(int fd) {
    lock();
    int copy = syscall(SYS_dup, fd), error = errno;
    duplicate(fd, copy);
    unlock();
    errno = error;
    return copy;
}

int dup3(int fd, int to, int flags) {
    lock();
    int copy = syscall(SYS_dup3, fd, to, flags), error = errno;
    duplicate(fd, copy);
    unlock();
    errno = error;
    return copy;
}

int dup2(int fd, int to) { return fd == to ? fd : dup3(fd, to, 0); }

int fcntl(int fd, int operation, ...) {
    va_list rest;
    va_start(rest, operation);
    long argument = va_arg(rest, long);
    va_end(rest);
    if (operation != F_DUPFD && operation != F_DUPFD_CLOEXEC) return syscall(SYS_fcntl, fd, operation, argument);
    lock();
    int copy = syscall(SYS_fcntl, fd, operation, argument), error = errno;
    duplicate(fd, copy);
    unlock();
    errno = error;
    return copy;
}
int fcntl64(int fd, int operation, ...) {
    va_list rest;
    va_start(rest, operation);
    long argument = va_arg(rest, long);
    va_end(rest);
    return fcntl(fd, operation, argument);
}

/* A write at a position, or at the descriptor's own (-1). */
static ssize_t write_in(int fd, const void *bytes, size_t length, off_t offset) {
    lock();
    struct open_file *file = file_of(fd);
    if (!file) {
        unlock();
        return offset < 0 ? syscall(SYS_write, fd, bytes, length) : syscall(SYS_pwrite64, fd, bytes, length, offset);
    }
    if (file->marks) {
        if (length && *(const char *)bytes == '!') command(bytes, length);
        ssize_t written = syscall(SYS_write, fd, bytes, length);
        if (written > 0) emit(MARK, 0, 0, 0, NULL, NULL, bytes, written);
        unlock();
        return written;
    }
    size_t wanted = length;
    int failing = faulty(C_WRITE), failing_errno = errno;
    if (failing) {
        if (!fail_mode || length < 2) {
            unlock();
            errno = failing_errno;
            return -1;
        }
        length /= 2;
    }
    int dying = about_to_change(NULL);
    if (dying && kill_phase == 2) length = (length + 1) / 2;
    off_t size = size_of(fd), at = offset;
    if (offset < 0) {
        at = syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND ? size : syscall(SYS_lseek, fd, 0, SEEK_CUR);
    }
    if (budget >= 0) {
        /* What lies within the file has its room already. */
        long long inside = size > at ? size - at : 0;
        if ((long long)length > inside + budget) length = inside + budget;
        if (!length && wanted) {
            unlock();
            errno = ENOSPC;
            return -1;
        }
        if ((long long)length > inside) budget -= length - inside;
    }
    undo_dirty(fd, file, at, length);
    ssize_t written = offset < 0 ? syscall(SYS_write, fd, bytes, length) : syscall(SYS_pwrite64, fd, bytes, length, offset);
    int error = errno;
    if (written > 0) emit(WRITE, file->id, at, 0, NULL, NULL, bytes, written);
    changed();
    if (failing && fail_mode == 2) {
        written = -1;
        error = failing_errno;
    }
    unlock();
    errno = error;
    return written;
}

ssize_t write(int fd, const void *bytes, size_t length) { return write_in(fd, bytes, length, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return write_in(fd, bytes, length, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) { return write_in(fd, bytes, length, offset); }

static ssize_t writev_in(int fd, const struct iovec *parts, int count, off_t offset) {
    lock();
    int known = file_of(fd) != NULL;
    unlock();
    if (!known) {
        return offset < 0 ? syscall(SYS_writev, fd, parts, count) : syscall(SYS_pwritev, fd, parts, count, offset, 0);
    }
    ssize_t all = 0;
    for (int at = 0; at < count; at++) {
        if (!parts[at].iov_len) continue;
        ssize_t written = write_in(fd, parts[at].iov_base, parts[at].iov_len, offset < 0 ? -1 : offset + all);
        if (written < 0) return all ? all : -1;
        all += written;
        if ((size_t)written < parts[at].iov_len) break;
    }
    return all;
}

ssize_t writev(int fd, const struct iovec *parts, int count) { return writev_in(fd, parts, count, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return writev_in(fd, parts, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) { return writev_in(fd, parts, count, offset); }

static int read_fails(int fd) {
    lock();
    struct open_file *file = fail_set & C_READ ? file_of(fd) : NULL;
    int failing = file && !file->marks && faulty(C_READ), error = errno;
    unlock();
    errno = error;
    return failing;
}

ssize_t read(int fd, void *bytes, size_t length) {
    lock();
    struct open_file *file = file_of(fd);
    if (file && file->marks) {
        /* How often what may fail was called since the last command, and how often it failed. */
        int written = snprintf(bytes, length, "%ld %ld %lld\n", fail_count, fail_hits, budget);
        unlock();
        return written;
    }
    unlock();
    if (read_fails(fd)) return -1;
    return syscall(SYS_read, fd, bytes, length);
}
ssize_t pread(int fd, void *bytes, size_t length, off_t offset) {
    return read_fails(fd) ? -1 : syscall(SYS_pread64, fd, bytes, length, offset);
}
ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset) { return pread(fd, bytes, length, offset); }

static int truncate_in(int fd, off_t length) {
    lock();
    struct open_file *file = file_of(fd);
    if (!file) {
        unlock();
        return syscall(SYS_ftruncate, fd, length);
    }
    if (faulty(C_TRUNCATE)) {
        unlock();
        return -1;
    }
    about_to_change(NULL);
    off_t size = size_of(fd);
    if (size > length) undo_dirty(fd, file, length, size - length);
    int result = syscall(SYS_ftruncate, fd, length), error = errno;
    if (!result) emit(TRUNCATE, file->id, length, 0, NULL, NULL, NULL, 0);
    if (!result && budget >= 0 && size > length) budget += size - length;
    changed();
    unlock();
    errno = error;
    return result;
}
int ftruncate(int fd, off_t length) { return truncate_in(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncate_in(fd, length); }

static int sync_in(int fd, int call, int data_only) {
    lock();
    struct open_file *file = file_of(fd);
    if (!file) {
        unlock();
        return syscall(call, fd);
    }
    if (faulty(C_SYNC)) {
        int error = errno;
        /* What it should have written is clean in memory and not on the disk: no later sync writes it. */
        emit(FAILED_SYNC, file->id, 0, 0, NULL, NULL, NULL, 0);
        undo_synced(file, 0);
        unlock();
        errno = error;
        return -1;
    }
    about_to_change("");
    int result = log_fd < 0 ? syscall(call, fd) : 0, error = errno;
    if (!result) emit(SYNC, file->id, data_only, 0, NULL, NULL, NULL, 0);
    if (!result) undo_synced(file, 1);
    changed();
    unlock();
    errno = error;
    return result;
}
int fsync(int fd) { return sync_in(fd, SYS_fsync, 0); }
int fdatasync(int fd) { return sync_in(fd, SYS_fdatasync, 1); }

/* Counts for nothing, and is recorded for nothing; but it can fail. */
int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) {
    (void)offset, (void)length, (void)flags;
    lock();
    int failing = file_of(fd) && faulty(C_RANGE), error = errno;
    unlock();
    errno = error;
    return failing ? -1 : 0;
}

int posix_fadvise(int fd, off_t offset, off_t length, int advice) {
    lock();
    struct open_file *file = file_of(fd);
    if (file && advice == POSIX_FADV_DONTNEED) undo_lost(fd, file);
    unlock();
    return syscall(SYS_fadvise64, fd, offset, length, advice) ? errno : 0;
}
int posix_fadvise64(int fd, off64_t offset, off64_t length, int advice) { return posix_fadvise(fd, offset, length, advice); }

static int allocate_in(int fd, int mode, off_t offset, off_t length) {
    lock();
    struct open_file *file = file_of(fd);
    if (!file) {
        unlock();
        return syscall(SYS_fallocate, fd, mode, offset, length);
    }
    if (faulty(C_ALLOCATE)) {
        unlock();
        return -1;
    }
    off_t more = offset + length - size_of(fd);
    if (budget >= 0 && more > budget) {
        unlock();
        errno = ENOSPC;
        return -1;
    }
    about_to_change(NULL);
    int result = syscall(SYS_fallocate, fd, mode, offset, length), error = errno;
    if (!result && mode) emit(FOREIGN, 0, 0, 0, "fallocate with a mode", NULL, NULL, 0);
    if (!result) emit(ALLOCATE, file->id, offset, length, NULL, NULL, NULL, 0);
    if (!result && budget >= 0 && more > 0) budget -= more;
    changed();
    unlock();
    errno = error;
    return result;
}
int fallocate(int fd, int mode, off_t offset, off_t length) { return allocate_in(fd, mode, offset, length); }
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return allocate_in(fd, mode, offset, length); }
int posix_fallocate(int fd, off_t offset, off_t length) { return allocate_in(fd, 0, offset, length) ? errno : 0; }
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }

static int is_elsewhere(const char *below) {
    size_t length = strlen(elsewhere);
    return length && below && !strncmp(below, elsewhere, length) && (!below[length] || below[length] == '/');
}

/* A call with one path or two. */
static int named(int class, uint32_t kind, int dir, const char *path, int to_dir, const char *to, int call, long extra) {
    char room[PATH_MAX], to_room[PATH_MAX];
    const char *below = ours(dir, path, room), *to_below = to ? ours(to_dir, to, to_room) : NULL;
    lock();
    if ((below || to_below) && faulty(class)) {
        unlock();
        return -1;
    }
    if (kind == LINK && is_elsewhere(below) != is_elsewhere(to_below)) {
        unlock();
        errno = EXDEV;
        return -1;
    }
    struct stat stat = {0};
    int ending = budget >= 0 && kind == UNLINK && below && !syscall(SYS_newfstatat, dir, path, &stat, AT_SYMLINK_NOFOLLOW);
    if (below || to_below) about_to_change(to_below ? to_below : below);
    int result = to ? syscall(call, dir, path, to_dir, to, extra) : syscall(call, dir, path, extra), error = errno;
    if (!result && (below || to_below)) {
        if (to && !(below && to_below)) emit(FOREIGN, 0, 0, 0, "a name that crosses the root", NULL, NULL, 0);
        emit(kind, 0, extra, 0, below ? below : "", to_below, NULL, 0);
        if (ending && stat.st_nlink == 1) budget += stat.st_size;
    }
    if (below || to_below) changed();
    unlock();
    errno = error;
    return result;
}

int rename(const char *from, const char *to) { return named(C_RENAME, RENAME, AT_FDCWD, from, AT_FDCWD, to, SYS_renameat2, 0); }
int renameat(int dir, const char *from, int to_dir, const char *to) { return named(C_RENAME, RENAME, dir, from, to_dir, to, SYS_renameat2, 0); }
int renameat2(int dir, const char *from, int to_dir, const char *to, unsigned flags) {
    return named(C_RENAME, flags > RENAME_NOREPLACE ? FOREIGN : RENAME, dir, from, to_dir, to, SYS_renameat2, flags);
}
int link(const char *from, const char *to) { return named(C_RENAME, LINK, AT_FDCWD, from, AT_FDCWD, to, SYS_linkat, 0); }
int linkat(int dir, const char *from, int to_dir, const char *to, int flags) { return named(C_RENAME, LINK, dir, from, to_dir, to, SYS_linkat, flags); }
int symlink(const char *from, const char *to) { (void)from, (void)to; die("symlink is not modelled"); return -1; }
int unlink(const char *path) { return named(C_UNLINK, UNLINK, AT_FDCWD, path, 0, NULL, SYS_unlinkat, 0); }
int unlinkat(int dir, const char *path, int flags) {
    return named(C_UNLINK, flags & AT_REMOVEDIR ? RMDIR : UNLINK, dir, path, 0, NULL, SYS_unlinkat, flags);
}
int remove(const char *path) { return unlink(path); }
int rmdir(const char *path) { return named(C_UNLINK, RMDIR, AT_FDCWD, path, 0, NULL, SYS_unlinkat, AT_REMOVEDIR); }
int mkdir(const char *path, mode_t mode) { return named(C_MKDIR, MKDIR, AT_FDCWD, path, 0, NULL, SYS_mkdirat, mode); }
int mkdirat(int dir, const char *path, mode_t mode) { return named(C_MKDIR, MKDIR, dir, path, 0, NULL, SYS_mkdirat, mode); }

/* Nothing here uses these on files of ours; should that change, it shows. */
static void foreign(int fd, const char *what) {
    lock();
    if (file_of(fd)) emit(FOREIGN, 0, 0, 0, what, NULL, NULL, 0);
    unlock();
}
static int is_ours(int fd) {
    lock();
    int known = file_of(fd) != NULL;
    unlock();
    return known;
}
/* Copying within the kernel and sharing blocks are refused: then the program writes the bytes itself, where they are seen. */
ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t length, unsigned flags) {
    if (is_ours(to)) {
        errno = EXDEV;
        return -1;
    }
    return syscall(SYS_copy_file_range, from, from_offset, to, to_offset, length, flags);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t count) {
    if (is_ours(to)) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_sendfile, to, from, offset, count);
}
int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (request == FICLONE && is_ours(fd)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return syscall(SYS_ioctl, fd, request, argument);
}
ssize_t splice(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t length, unsigned flags) {
    foreign(to, "splice");
    return syscall(SYS_splice, from, from_offset, to, to_offset, length, flags);
}
void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
    if (fd >= 0 && flags & MAP_SHARED && protection & PROT_WRITE) foreign(fd, "a shared map that can be written");
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

static int space_in(int fd, struct statvfs64 *stat) {
    static int (*next)(int, struct statvfs64 *);
    if (!next) next = dlsym(RTLD_NEXT, "fstatvfs64");
    lock();
    struct open_file *file = file_of(fd);
    int failing = file && faulty(C_SPACE), error = errno;
    unlock();
    if (failing) {
        errno = error;
        return -1;
    }
    int result = next(fd, stat);
    if (!result && file && budget >= 0 && !budget_lies) stat->f_bavail = stat->f_bfree = budget / stat->f_frsize;
    return result;
}
int fstatvfs64(int fd, struct statvfs64 *stat) { return space_in(fd, stat); }
int fstatvfs(int fd, struct statvfs *stat) { return space_in(fd, (struct statvfs64 *)stat); }
