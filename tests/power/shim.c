/* Writes down, in one order for all processes, whatever changes a file below a directory, and when it is made durable.

   For LD_PRELOAD. POWER_ROOT is the directory (absolute, no links in it), POWER_JOURNAL the file that is appended to; disk.py
   reads it. A sync is written down and not done: what it covers is then exactly what was written down before it. POWER_SYNC_US lets each
   take up to that many microseconds, so that threads meet as they do on a disk. POWER_KILL_AT=N kills the process as it begins its Nth
   sync. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FD 65536
enum { NOT_OURS, A_FILE, A_SYNCED_FILE, A_DIRECTORY };

static unsigned char kinds[MAX_FD];
static char root[4096];
static size_t root_length;
static int journal = -1;
static long kill_at, sync_us;
static atomic_long syncs;

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })

static void fail(const char *what) {
    dprintf(2, "power shim: %s: %s\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void start(void) {
    const char *directory = getenv("POWER_ROOT"), *file = getenv("POWER_JOURNAL"), *number;
    if (!directory || !file) return;
    strncpy(root, directory, sizeof root - 1);
    root_length = strlen(root);
    /* By the kernel, and far from the numbers that programs pass on. */
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0 || (journal = fcntl(fd, F_DUPFD_CLOEXEC, 800)) < 0) fail(file);
    syscall(SYS_close, fd);
    if ((number = getenv("POWER_KILL_AT"))) kill_at = atol(number);
    if ((number = getenv("POWER_SYNC_US"))) sync_us = atol(number);
}

struct entry {
    uint32_t path, other, data;
    uint32_t kind;
    uint64_t inode, at, size;
} __attribute__((packed));

static void put(char kind, uint64_t inode, uint64_t at, uint64_t size, const char *path, const char *other, const void *data, size_t n) {
    struct entry entry = {path ? strlen(path) : 0, other ? strlen(other) : 0, n, kind, inode, at, size};
    struct iovec parts[] = {{&entry, sizeof entry}, {(void *)path, entry.path}, {(void *)other, entry.other}, {(void *)data, n}};
    int kept = errno;
    /* One append: whole, and in one order, whoever else appends. */
    if (syscall(SYS_writev, journal, parts, 4) != (long)(sizeof entry + entry.path + entry.other + n)) fail("journal");
    errno = kept;
}

static int ours(const char *path) {
    return journal >= 0 && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int of_fd(int fd, char *out, size_t n) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, out, n - 1);
    if (length < 0) return 0;
    out[length] = 0;
    return 1;
}

/* The absolute path of a name, if it lies below the root. */
static int resolved(int directory, const char *name, char *out, size_t n) {
    if (journal < 0) return 0;
    if (name[0] == '/') {
        snprintf(out, n, "%s", name);
        return ours(out);
    }
    char base[4096];
    if (directory == AT_FDCWD ? syscall(SYS_getcwd, base, sizeof base) < 0 : !of_fd(directory, base, sizeof base)) return 0;
    snprintf(out, n, "%s/%s", base, name);
    return ours(out);
}

static uint64_t inode(int fd) {
    struct stat status;
    if (fstat(fd, &status)) fail("fstat");
    return status.st_ino;
}

static int kind(int fd) { return fd >= 0 && fd < MAX_FD ? kinds[fd] : NOT_OURS; }

static int opened(int directory, const char *name, int flags, mode_t mode) {
    char path[8192];
    int below = resolved(directory, name, path, sizeof path);
    int there = below && syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
    int fd = (int)syscall(SYS_openat, directory, name, flags | O_LARGEFILE, mode);
    if (fd < 0 || fd >= MAX_FD) {
        if (fd >= 0 && below) fail("too many files");
        return fd;
    }
    kinds[fd] = NOT_OURS;
    if (!below) return fd;
    struct stat status;
    if (fstat(fd, &status)) fail(path);
    kinds[fd] = S_ISDIR(status.st_mode) ? A_DIRECTORY : S_ISREG(status.st_mode) ? (flags & O_DSYNC ? A_SYNCED_FILE : A_FILE) : NOT_OURS;
    if ((flags & O_CREAT) && !there) put('C', status.st_ino, 0, 0, path, NULL, NULL, 0);
    else if ((flags & O_TRUNC) && there) put('T', status.st_ino, 0, 0, path, NULL, NULL, 0);
    return fd;
}

#define MODE(flags) ({ mode_t mode = 0; if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); } mode; })
int open(const char *path, int flags, ...) { return opened(AT_FDCWD, path, flags, MODE(flags)); }
int open64(const char *path, int flags, ...) { return opened(AT_FDCWD, path, flags, MODE(flags)); }
int openat(int directory, const char *path, int flags, ...) { return opened(directory, path, flags, MODE(flags)); }
int openat64(int directory, const char *path, int flags, ...) { return opened(directory, path, flags, MODE(flags)); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    if (fd >= 0 && fd == journal) return 0; /* Whoever closes all that it doesn't know. */
    if (fd >= 0 && fd < MAX_FD) kinds[fd] = NOT_OURS;
    return REAL(close)(fd);
}

static ssize_t wrote(int fd, const void *data, ssize_t n, off_t at) {
    if (n > 0) {
        uint64_t number = inode(fd);
        put('W', number, at, 0, NULL, NULL, data, n);
        if (kind(fd) == A_SYNCED_FILE) put('S', number, 0, 0, NULL, NULL, NULL, 0);
    }
    return n;
}

ssize_t write(int fd, const void *data, size_t n) {
    ssize_t done = syscall(SYS_write, fd, data, n);
    return kind(fd) == NOT_OURS ? done : wrote(fd, data, done, lseek(fd, 0, SEEK_CUR) - done);
}
static ssize_t wrote_at(int fd, const void *data, size_t n, off_t at) {
    ssize_t done = syscall(SYS_pwrite64, fd, data, n, at);
    return kind(fd) == NOT_OURS ? done : wrote(fd, data, done, at);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return wrote_at(fd, data, n, at); }
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) { return wrote_at(fd, data, n, at); }
ssize_t writev(int fd, const struct iovec *parts, int n) {
    if (kind(fd) == NOT_OURS) return syscall(SYS_writev, fd, parts, n);
    ssize_t total = 0;
    for (int i = 0; i < n; i++) {
        ssize_t done = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (done < 0) return total ? total : done;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}

static int cut(int fd, off_t size) {
    int failed = (int)syscall(SYS_ftruncate, fd, size);
    if (!failed && kind(fd) != NOT_OURS) put('T', inode(fd), 0, size, NULL, NULL, NULL, 0);
    return failed;
}
int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off_t size) { return cut(fd, size); }

/* What nobody here does must not pass unseen. */
static void unknown(int fd, const char *what) {
    if (kind(fd) != NOT_OURS) {
        char path[4096] = "";
        of_fd(fd, path, sizeof path);
        put('?', inode(fd), 0, 0, path, what, NULL, 0);
    }
}
int fallocate(int fd, int mode, off_t at, off_t n) { unknown(fd, "fallocate"); return (int)syscall(SYS_fallocate, fd, mode, at, n); }
int fallocate64(int fd, int mode, off_t at, off_t n) { return fallocate(fd, mode, at, n); }
int posix_fallocate(int fd, off_t at, off_t n) { return fallocate(fd, 0, at, n) ? errno : 0; }
int posix_fallocate64(int fd, off_t at, off_t n) { return posix_fallocate(fd, at, n); }
static void *mapped(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
    if (fd >= 0 && (flags & MAP_TYPE) != MAP_PRIVATE && (protection & PROT_WRITE)) unknown(fd, "mmap");
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}
void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset) { return mapped(at, n, protection, flags, fd, offset); }
void *mmap64(void *at, size_t n, int protection, int flags, int fd, off_t offset) { return mapped(at, n, protection, flags, fd, offset); }

static int synced(int fd) {
    long number = atomic_fetch_add(&syncs, 1) + 1;
    if (number == kill_at) kill(getpid(), SIGKILL), pause();
    if (sync_us) usleep(1 + (unsigned)number * 2654435761u % sync_us);
    if (kind(fd) == A_DIRECTORY) {
        char path[4096];
        if (!of_fd(fd, path, sizeof path)) fail("sync");
        put('D', 0, 0, 0, path, NULL, NULL, 0);
    } else {
        put('S', inode(fd), 0, 0, NULL, NULL, NULL, 0);
    }
    return 0;
}
int fsync(int fd) { return kind(fd) == NOT_OURS ? (int)syscall(SYS_fsync, fd) : synced(fd); }
int fdatasync(int fd) { return kind(fd) == NOT_OURS ? (int)syscall(SYS_fdatasync, fd) : synced(fd); }

static int named(char kind, int failed, int below, const char *path, const char *other) {
    if (!failed && below) put(kind, 0, 0, 0, path, other, NULL, 0);
    return failed;
}
int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
    char path[8192], other[8192];
    int below = resolved(from_directory, from, path, sizeof path) + resolved(to_directory, to, other, sizeof other);
    if (below == 1) fail("rename across the root");
    return named('R', (int)syscall(SYS_renameat2, from_directory, from, to_directory, to, flags), below, path, other);
}
int renameat(int from_directory, const char *from, int to_directory, const char *to) { return renameat2(from_directory, from, to_directory, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int unlinkat(int directory, const char *name, int flags) {
    char path[8192];
    int below = resolved(directory, name, path, sizeof path);
    return named(flags & AT_REMOVEDIR ? 'X' : 'U', (int)syscall(SYS_unlinkat, directory, name, flags), below, path, NULL);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int remove(const char *name) { return unlink(name) && errno == EISDIR ? rmdir(name) : 0; }
int mkdirat(int directory, const char *name, mode_t mode) {
    char path[8192];
    int below = resolved(directory, name, path, sizeof path);
    return named('M', (int)syscall(SYS_mkdirat, directory, name, mode), below, path, NULL);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    char path[8192], other[8192];
    int below = resolved(from_directory, from, path, sizeof path) + resolved(to_directory, to, other, sizeof other);
    if (below == 1) fail("link across the root");
    return named('L', (int)syscall(SYS_linkat, from_directory, from, to_directory, to, flags), below, path, other);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
