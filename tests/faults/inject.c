// Lets the n-th operation of a kind on files below one folder fail with a chosen errno, or kill the process there.
//
// Preloaded (LD_PRELOAD) into a fork server; a child arms it by fault_arm(). Built by tests/faults/shim.py with
//   cc -shared -fPIC -O1 -o inject.so inject.c -ldl
// What is not seen: calls that libc makes inside itself (fwrite's writes; fopen is), and pages read through mmap.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, RENAME, FSYNC, MKDIR, UNLINK, KINDS };
enum { MAX_FD = 65536 };

// One page shared between a command and the processes that it starts: counts and the one shot are of all of them.
struct state {
    _Atomic long count[KINDS];
    _Atomic long fired;
    int kind, error, kills, armed;
    long nth;
    char prefix[PATH_MAX];
    size_t length;
};
static struct state *shared;
static unsigned char below[MAX_FD];

void *fault_page(void) {
    shared = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(shared, 0, sizeof(struct state));
    return shared;
}

// kind: as in the enum; nth counts from 1, 0 only counts; kills: a signal in place of the error, 0 for none.
void fault_arm(const char *prefix, int kind, long nth, int error, int kills) {
    if (!shared) fault_page();
    memset(below, 0, sizeof below);
    for (int k = 0; k < KINDS; k++) shared->count[k] = 0;
    shared->fired = 0;
    snprintf(shared->prefix, sizeof shared->prefix, "%s/", prefix);
    shared->length = strlen(shared->prefix);
    shared->kind = kind; shared->nth = nth; shared->error = error; shared->kills = kills;
    shared->armed = 1;
}
void fault_disarm(void) { if (shared) shared->armed = 0; }
long fault_count(int kind) { return shared ? shared->count[kind] : 0; }
long fault_fired(void) { return shared ? shared->fired : 0; }

static int watched_path(int folder, const char *path) {
    if (!shared || !shared->armed || !path) return 0;
    char whole[2 * PATH_MAX];
    if (path[0] == '/') {
        snprintf(whole, sizeof whole, "%s/", path);
    } else {
        char at[PATH_MAX];
        if (folder == AT_FDCWD) {
            if (!getcwd(at, sizeof at)) return 0;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t got = readlink(link, at, sizeof at - 1);
            if (got < 0) return 0;
            at[got] = 0;
        }
        snprintf(whole, sizeof whole, "%s/%s/", at, path);
    }
    return strncmp(whole, shared->prefix, shared->length) == 0;
}

// 1 and errno set when this call is the one that fails.
static int hit(int kind) {
    long now = atomic_fetch_add(&shared->count[kind], 1) + 1;
    if (kind != shared->kind || now != shared->nth) return 0;
    shared->fired = 1;
    if (shared->kills) { kill(getpid(), shared->kills); if (shared->kills == SIGKILL) pause(); return 0; }
    errno = shared->error;
    return 1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int mark(int fd, int yes) { if (fd >= 0 && fd < MAX_FD) below[fd] = (unsigned char)yes; return fd; }
static int watched_fd(int fd) { return shared && shared->armed && fd >= 0 && fd < MAX_FD && below[fd]; }

#define OPEN_BODY(call, folder) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list l; va_start(l, flags); mode = va_arg(l, mode_t); va_end(l); } \
    int yes = watched_path(folder, path); \
    if (yes && hit(OPEN)) return -1; \
    return mark(call, yes)

int open(const char *path, int flags, ...) { REAL(int, "open", const char *, int, ...); OPEN_BODY(real(path, flags, mode), AT_FDCWD); }
int open64(const char *path, int flags, ...) { REAL(int, "open64", const char *, int, ...); OPEN_BODY(real(path, flags, mode), AT_FDCWD); }
int openat(int folder, const char *path, int flags, ...) { REAL(int, "openat", int, const char *, int, ...); OPEN_BODY(real(folder, path, flags, mode), folder); }
int openat64(int folder, const char *path, int flags, ...) { REAL(int, "openat64", int, const char *, int, ...); OPEN_BODY(real(folder, path, flags, mode), folder); }

static FILE *opened(FILE *file, int yes) { if (file) mark(fileno(file), yes); return file; }
FILE *fopen(const char *path, const char *how) {
    REAL(FILE *, "fopen", const char *, const char *);
    int yes = watched_path(AT_FDCWD, path);
    if (yes && hit(OPEN)) return NULL;
    return opened(real(path, how), yes);
}
FILE *fopen64(const char *path, const char *how) {
    REAL(FILE *, "fopen64", const char *, const char *);
    int yes = watched_path(AT_FDCWD, path);
    if (yes && hit(OPEN)) return NULL;
    return opened(real(path, how), yes);
}

int close(int fd) { REAL(int, "close", int); mark(fd, 0); return real(fd); }
int dup2(int from, int to) { REAL(int, "dup2", int, int); int got = real(from, to); if (got >= 0) mark(got, from >= 0 && from < MAX_FD && below[from]); return got; }
int dup(int from) { REAL(int, "dup", int); int got = real(from); if (got >= 0) mark(got, from < MAX_FD && below[from]); return got; }

ssize_t read(int fd, void *to, size_t n) { REAL(ssize_t, "read", int, void *, size_t); if (watched_fd(fd) && hit(READ)) return -1; return real(fd, to, n); }
ssize_t pread(int fd, void *to, size_t n, off_t at) { REAL(ssize_t, "pread", int, void *, size_t, off_t); if (watched_fd(fd) && hit(READ)) return -1; return real(fd, to, n, at); }
ssize_t pread64(int fd, void *to, size_t n, off64_t at) { REAL(ssize_t, "pread64", int, void *, size_t, off64_t); if (watched_fd(fd) && hit(READ)) return -1; return real(fd, to, n, at); }
ssize_t write(int fd, const void *from, size_t n) { REAL(ssize_t, "write", int, const void *, size_t); if (watched_fd(fd) && hit(WRITE)) return -1; return real(fd, from, n); }
ssize_t pwrite(int fd, const void *from, size_t n, off_t at) { REAL(ssize_t, "pwrite", int, const void *, size_t, off_t); if (watched_fd(fd) && hit(WRITE)) return -1; return real(fd, from, n, at); }
ssize_t pwrite64(int fd, const void *from, size_t n, off64_t at) { REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t); if (watched_fd(fd) && hit(WRITE)) return -1; return real(fd, from, n, at); }
ssize_t writev(int fd, const struct iovec *parts, int n) { REAL(ssize_t, "writev", int, const struct iovec *, int); if (watched_fd(fd) && hit(WRITE)) return -1; return real(fd, parts, n); }
ssize_t sendfile(int to, int from, off_t *at, size_t n) { REAL(ssize_t, "sendfile", int, int, off_t *, size_t); if (watched_fd(to) && hit(WRITE)) return -1; return real(to, from, at, n); }
ssize_t sendfile64(int to, int from, off64_t *at, size_t n) { REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t); if (watched_fd(to) && hit(WRITE)) return -1; return real(to, from, at, n); }
int ftruncate(int fd, off_t n) { REAL(int, "ftruncate", int, off_t); if (watched_fd(fd) && hit(WRITE)) return -1; return real(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL(int, "ftruncate64", int, off64_t); if (watched_fd(fd) && hit(WRITE)) return -1; return real(fd, n); }
int fsync(int fd) { REAL(int, "fsync", int); if (watched_fd(fd) && hit(FSYNC)) return -1; return real(fd); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); if (watched_fd(fd) && hit(FSYNC)) return -1; return real(fd); }
int rename(const char *from, const char *to) { REAL(int, "rename", const char *, const char *); if (watched_path(AT_FDCWD, to) && hit(RENAME)) return -1; return real(from, to); }
int renameat(int f, const char *from, int t, const char *to) { REAL(int, "renameat", int, const char *, int, const char *); if (watched_path(t, to) && hit(RENAME)) return -1; return real(f, from, t, to); }
int renameat2(int f, const char *from, int t, const char *to, unsigned int how) { REAL(int, "renameat2", int, const char *, int, const char *, unsigned int); if (watched_path(t, to) && hit(RENAME)) return -1; return real(f, from, t, to, how); }
int mkdir(const char *path, mode_t mode) { REAL(int, "mkdir", const char *, mode_t); if (watched_path(AT_FDCWD, path) && hit(MKDIR)) return -1; return real(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(int, "mkdirat", int, const char *, mode_t); if (watched_path(folder, path) && hit(MKDIR)) return -1; return real(folder, path, mode); }
int unlink(const char *path) { REAL(int, "unlink", const char *); if (watched_path(AT_FDCWD, path) && hit(UNLINK)) return -1; return real(path); }
int unlinkat(int folder, const char *path, int how) { REAL(int, "unlinkat", int, const char *, int); if (watched_path(folder, path) && hit(UNLINK)) return -1; return real(folder, path, how); }
int rmdir(const char *path) { REAL(int, "rmdir", const char *); if (watched_path(AT_FDCWD, path) && hit(UNLINK)) return -1; return real(path); }
