/* Preloaded into a process, writes down what it does to the files under the folder DISK_LOG_ROOT,
 * and what it says on its standard output, in the order in which it happens, into DISK_LOG.
 *
 * An entry is a line `kind device inode number length length length`, and three pieces of data of
 * these lengths: a path, a second path, and bytes that were written. With DISK_LOG_KILL the
 * process is killed when it has made so many entries.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Writes the path of `name`, relative to `folder` as openat takes it, and says if it is watched. */
static int watched(int folder, const char *name, char path[PATH_MAX])
{
    const char *root = getenv("DISK_LOG_ROOT");
    char base[PATH_MAX] = "";
    if (!root || !name)
        return 0;
    if (name[0] != '/') {
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base))
                return 0;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            const ssize_t length = readlink(link, base, sizeof base - 1);
            if (length < 0)
                return 0;
            base[length] = 0;
        }
        strcat(base, "/");
    }
    if (snprintf(path, PATH_MAX, "%s%s", base, name) >= PATH_MAX)
        return 0;
    const size_t length = strlen(root);
    return !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

static int watched_file(int file, char path[PATH_MAX])
{
    char link[64], target[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    const ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 0)
        return 0;
    target[length] = 0;
    return watched(AT_FDCWD, target, path);
}

static void note(char kind, const struct stat *file, long long number, const char *path,
                 const char *second, const void *data, size_t size)
{
    static long entries;
    const int error = errno;
    const char *name = getenv("DISK_LOG"), *last = getenv("DISK_LOG_KILL");
    pthread_mutex_lock(&writing);
    const int log = name ? NEXT(open)(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (log >= 0) {
        char head[256];
        const int length =
            snprintf(head, sizeof head, "%c %llu %llu %lld %zu %zu %zu\n", kind,
                     file ? (unsigned long long)file->st_dev : 0,
                     file ? (unsigned long long)file->st_ino : 0, number, strlen(path),
                     strlen(second), size);
        const struct iovec pieces[] = {{head, (size_t)length},
                                       {(void *)path, strlen(path)},
                                       {(void *)second, strlen(second)},
                                       {(void *)data, size}};
        if (NEXT(writev)(log, pieces, 4) < 0)
            abort();
        close(log);
    }
    if (last && ++entries == atol(last))
        kill(getpid(), SIGKILL);
    pthread_mutex_unlock(&writing);
    errno = error;
}

/* Opens through `open`, and notes whether a file was made or emptied. */
#define OPEN(name, declared, folder, call)                                                         \
    int name declared                                                                              \
    {                                                                                              \
        mode_t mode = 0;                                                                           \
        if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {                                      \
            va_list rest;                                                                          \
            va_start(rest, flags);                                                                 \
            mode = va_arg(rest, mode_t);                                                           \
            va_end(rest);                                                                          \
        }                                                                                          \
        char full[PATH_MAX];                                                                       \
        struct stat before, after;                                                                 \
        const int look = flags & (O_CREAT | O_TRUNC) && (flags & O_TMPFILE) != O_TMPFILE &&        \
                         watched(folder, path, full);                                              \
        const int was = look && !fstatat(folder, path, &before, 0);                                \
        const int file = call;                                                                     \
        if (look && file >= 0 && !fstat(file, &after)) {                                           \
            if (!was)                                                                              \
                note('C', &after, 0, full, "", "", 0);                                             \
            else if (flags & O_TRUNC && before.st_size)                                            \
                note('T', &after, 0, full, "", "", 0);                                             \
        }                                                                                          \
        return file;                                                                               \
    }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD, NEXT(open)(path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, NEXT(open64)(path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), at, NEXT(openat)(at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...), at,
     NEXT(openat64)(at, path, flags, mode))

static void note_write(int file, off_t offset, const void *data, ssize_t size)
{
    char path[PATH_MAX];
    struct stat status;
    if (size <= 0)
        return;
    if (file == STDOUT_FILENO)
        note('P', NULL, 0, "", "", data, (size_t)size);
    else if (watched_file(file, path) && !fstat(file, &status) && status.st_nlink)
        note('W', &status, offset < 0 ? lseek(file, 0, SEEK_CUR) - size : offset, path, "", data,
             (size_t)size);
}

ssize_t write(int file, const void *data, size_t size)
{
    const ssize_t written = NEXT(write)(file, data, size);
    note_write(file, -1, data, written);
    return written;
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset)
{
    const ssize_t written = NEXT(pwrite)(file, data, size, offset);
    note_write(file, offset, data, written);
    return written;
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset)
{
    return pwrite(file, data, size, offset);
}

ssize_t writev(int file, const struct iovec *pieces, int count)
{
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        const ssize_t written = write(file, pieces[i].iov_base, pieces[i].iov_len);
        if (written < 0)
            return total ? total : written;
        total += written;
        if ((size_t)written < pieces[i].iov_len)
            break;
    }
    return total;
}

#define NOTE_FILE(kind, file, number)                                                              \
    do {                                                                                           \
        char path[PATH_MAX];                                                                       \
        struct stat status;                                                                        \
        if (!result && watched_file(file, path) && !fstat(file, &status) && status.st_nlink)       \
            note(S_ISDIR(status.st_mode) ? 'D' : (kind), &status, number, path, "", "", 0);        \
        return result;                                                                             \
    } while (0)

int fsync(int file)
{
    const int result = NEXT(fsync)(file);
    NOTE_FILE('S', file, 0);
}

int fdatasync(int file)
{
    const int result = NEXT(fdatasync)(file);
    NOTE_FILE('S', file, 0);
}

int ftruncate(int file, off_t size)
{
    const int result = NEXT(ftruncate)(file, size);
    NOTE_FILE('T', file, size);
}

int ftruncate64(int file, off64_t size) { return ftruncate(file, size); }

int truncate(const char *name, off_t size)
{
    const int file = NEXT(open)(name, O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    const int result = ftruncate(file, size);
    close(file);
    return result;
}

int truncate64(const char *name, off64_t size) { return truncate(name, size); }

static int noted_rename(int from, const char *old, int to, const char *new, int result)
{
    char first[PATH_MAX], second[PATH_MAX];
    if (!result && (watched(from, old, first) | watched(to, new, second)))
        note('R', NULL, 0, first, second, "", 0);
    return result;
}

int rename(const char *old, const char *new)
{
    return noted_rename(AT_FDCWD, old, AT_FDCWD, new, NEXT(rename)(old, new));
}

int renameat(int from, const char *old, int to, const char *new)
{
    return noted_rename(from, old, to, new, NEXT(renameat)(from, old, to, new));
}

static int noted_name(char kind, int folder, const char *name, int result)
{
    char path[PATH_MAX];
    if (!result && watched(folder, name, path))
        note(kind, NULL, 0, path, "", "", 0);
    return result;
}

int unlink(const char *name) { return noted_name('U', AT_FDCWD, name, NEXT(unlink)(name)); }

int unlinkat(int folder, const char *name, int flags)
{
    return noted_name('U', folder, name, NEXT(unlinkat)(folder, name, flags));
}

int remove(const char *name) { return noted_name('U', AT_FDCWD, name, NEXT(remove)(name)); }

int rmdir(const char *name) { return noted_name('U', AT_FDCWD, name, NEXT(rmdir)(name)); }

int mkdir(const char *name, mode_t mode)
{
    return noted_name('M', AT_FDCWD, name, NEXT(mkdir)(name, mode));
}

int mkdirat(int folder, const char *name, mode_t mode)
{
    return noted_name('M', folder, name, NEXT(mkdirat)(folder, name, mode));
}

/* What the model of a disk does not know must not go unseen. */
#define REFUSED(name, declared)                                                                    \
    int name declared                                                                              \
    {                                                                                              \
        fprintf(stderr, "disk_log: " #name " is not followed\n");                                  \
        abort();                                                                                   \
    }

REFUSED(link, (const char *old, const char *new))
REFUSED(symlink, (const char *target, const char *name))
REFUSED(linkat, (int from, const char *old, int to, const char *new, int flags))
