// Lets the n-th operation of a kind on files below one folder fail with a chosen errno, or kill the process there; and
// records what a loss of power may undo: names made, renamed and removed, and what has been synced since.
//
// Preloaded (LD_PRELOAD) into a fork server; a child arms it by fault_arm() and fault_record(). Built by shim.py with
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
    _Atomic long fired, kept;
    int kind, error, kills, armed;
    long nth;
    char prefix[PATH_MAX];
    size_t length;
};
static struct state *shared;
static unsigned char below[MAX_FD];
static int record = -1;            // the file that takes the record, one line per operation
static char kept[PATH_MAX];        // a folder of the same disk, in which what is replaced or removed gets a second name

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
    shared->fired = shared->kept = 0;
    record = -1;
    snprintf(shared->prefix, sizeof shared->prefix, "%s/", prefix);
    shared->length = strlen(shared->prefix);
    shared->kind = kind; shared->nth = nth; shared->error = error; shared->kills = kills;
    shared->armed = 1;
}
void fault_record(int descriptor, const char *folder) {
    record = descriptor;
    snprintf(kept, sizeof kept, "%s", folder);
}
void fault_disarm(void) { if (shared) shared->armed = 0; }
long fault_count(int kind) { return shared ? shared->count[kind] : 0; }
long fault_fired(void) { return shared ? shared->fired : 0; }

// The absolute path, with a slash at its end; 0 where it is not below the watched folder.
static int watched_as(int folder, const char *path, char whole[2 * PATH_MAX]) {
    if (!shared || !shared->armed || !path) return 0;
    if (path[0] == '/') {
        snprintf(whole, 2 * PATH_MAX, "%s/", path);
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
        snprintf(whole, 2 * PATH_MAX, "%s/%s/", at, path);
    }
    return strncmp(whole, shared->prefix, shared->length) == 0;
}
static int watched_path(int folder, const char *path) { char whole[2 * PATH_MAX]; return watched_as(folder, path, whole); }

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

// Records: "KIND|number of what is kept|path|other path"; paths of the tests hold no '|' and no line break.
static void note(const char *kind, long number, int folder, const char *path, const char *other) {
    char whole[2 * PATH_MAX], line[5 * PATH_MAX];
    if (!watched_as(folder, path, whole)) return;
    int length = snprintf(line, sizeof line, "%s|%ld|%.*s|%s\n", kind, number, (int)strlen(whole) - 1, whole, other);
    int before = errno;
    REAL(ssize_t, "write", int, const void *, size_t);
    if (real(record, line, (size_t)length) < 0) abort();
    errno = before;
}
// Gives what is about to lose its name a second one; returns its number, 0 where there is nothing to keep.
static long keep(int folder, const char *path) {
    struct stat state;
    if (fstatat(folder, path, &state, AT_SYMLINK_NOFOLLOW) || !S_ISREG(state.st_mode)) return 0;
    long number = atomic_fetch_add(&shared->kept, 1) + 1;
    char name[PATH_MAX + 32];
    snprintf(name, sizeof name, "%s/%ld", kept, number);
    int before = errno;
    number = linkat(folder, path, AT_FDCWD, name, 0) ? 0 : number;
    errno = before;
    return number;
}
static int records(int folder, const char *path) { return record >= 0 && watched_path(folder, path); }
static int is_new(int folder, const char *path, int flags) {
    return (flags & O_CREAT) && records(folder, path) && faccessat(folder, path, F_OK, AT_SYMLINK_NOFOLLOW);
}
static void note_sync(int fd) {
    struct stat state;
    char link[64], path[PATH_MAX], content[96];
    if (record < 0 || fstat(fd, &state)) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(link, path, sizeof path - 1);
    if (got < 0) return;
    path[got] = 0;
    snprintf(content, sizeof content, "%lu %ld %ld", (unsigned long)state.st_ino, (long)state.st_size,
             state.st_mtim.tv_sec * 1000000000L + state.st_mtim.tv_nsec);
    note(S_ISDIR(state.st_mode) ? "names" : "content", 0, AT_FDCWD, path, content);
}

#define OPEN_BODY(call, folder) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list l; va_start(l, flags); mode = va_arg(l, mode_t); va_end(l); } \
    int yes = watched_path(folder, path); \
    if (yes && hit(OPEN)) return -1; \
    int made = is_new(folder, path, flags); \
    int got = mark(call, yes); \
    if (made && got >= 0) note("made", 0, folder, path, ""); \
    return got

int open(const char *path, int flags, ...) { REAL(int, "open", const char *, int, ...); OPEN_BODY(real(path, flags, mode), AT_FDCWD); }
int open64(const char *path, int flags, ...) { REAL(int, "open64", const char *, int, ...); OPEN_BODY(real(path, flags, mode), AT_FDCWD); }
int openat(int folder, const char *path, int flags, ...) { REAL(int, "openat", int, const char *, int, ...); OPEN_BODY(real(folder, path, flags, mode), folder); }
int openat64(int folder, const char *path, int flags, ...) { REAL(int, "openat64", int, const char *, int, ...); OPEN_BODY(real(folder, path, flags, mode), folder); }

static FILE *opened(FILE *file, int yes) { if (file) mark(fileno(file), yes); return file; }
#define FOPEN_BODY(name) \
    REAL(FILE *, name, const char *, const char *); \
    int yes = watched_path(AT_FDCWD, path); \
    if (yes && hit(OPEN)) return NULL; \
    int made = how[0] != 'r' && is_new(AT_FDCWD, path, O_CREAT); \
    FILE *file = opened(real(path, how), yes); \
    if (made && file) note("made", 0, AT_FDCWD, path, ""); \
    return file
FILE *fopen(const char *path, const char *how) { FOPEN_BODY("fopen"); }
FILE *fopen64(const char *path, const char *how) { FOPEN_BODY("fopen64"); }

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
static int synced(int got, int fd) { if (!got && watched_fd(fd)) note_sync(fd); return got; }
int fsync(int fd) { REAL(int, "fsync", int); if (watched_fd(fd) && hit(FSYNC)) return -1; return synced(real(fd), fd); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); if (watched_fd(fd) && hit(FSYNC)) return -1; return synced(real(fd), fd); }

// A rename is undone by its mirror; "swapped": two names have exchanged what they name.
#define RENAME_BODY(f, from, t, to, kind, call) \
    if (watched_path(t, to) && hit(RENAME)) return -1; \
    char source[2 * PATH_MAX] = ""; \
    int noted = records(t, to); \
    long number = noted && kind[0] != 's' ? keep(t, to) : 0; \
    if (noted && watched_as(f, from, source)) source[strlen(source) - 1] = 0; \
    int got = call; \
    if (!got && noted) note(kind, number, t, to, source); \
    return got
int rename(const char *from, const char *to) { REAL(int, "rename", const char *, const char *); RENAME_BODY(AT_FDCWD, from, AT_FDCWD, to, "renamed", real(from, to)); }
int renameat(int f, const char *from, int t, const char *to) { REAL(int, "renameat", int, const char *, int, const char *); RENAME_BODY(f, from, t, to, "renamed", real(f, from, t, to)); }
int renameat2(int f, const char *from, int t, const char *to, unsigned int how) { REAL(int, "renameat2", int, const char *, int, const char *, unsigned int); RENAME_BODY(f, from, t, to, (how & 2 ? "swapped" : "renamed"), real(f, from, t, to, how)); }

#define MAKE_BODY(kind, folder, path, call) \
    if (watched_path(folder, path) && hit(MKDIR)) return -1; \
    int got = call; \
    if (!got && records(folder, path)) note(kind, 0, folder, path, ""); \
    return got
int mkdir(const char *path, mode_t mode) { REAL(int, "mkdir", const char *, mode_t); MAKE_BODY("folder", AT_FDCWD, path, real(path, mode)); }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(int, "mkdirat", int, const char *, mode_t); MAKE_BODY("folder", folder, path, real(folder, path, mode)); }
int link(const char *from, const char *to) { REAL(int, "link", const char *, const char *); MAKE_BODY("made", AT_FDCWD, to, real(from, to)); }

#define REMOVE_BODY(kind, folder, path, call) \
    if (watched_path(folder, path) && hit(UNLINK)) return -1; \
    int noted = records(folder, path); \
    long number = noted ? keep(folder, path) : 0; \
    int got = call; \
    if (!got && noted) note(kind, number, folder, path, ""); \
    return got
int unlink(const char *path) { REAL(int, "unlink", const char *); REMOVE_BODY("removed", AT_FDCWD, path, real(path)); }
int unlinkat(int folder, const char *path, int how) { REAL(int, "unlinkat", int, const char *, int); REMOVE_BODY((how & AT_REMOVEDIR ? "emptied" : "removed"), folder, path, real(folder, path, how)); }
int rmdir(const char *path) { REAL(int, "rmdir", const char *); REMOVE_BODY("emptied", AT_FDCWD, path, real(path)); }
