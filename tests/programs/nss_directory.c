/* A directory service (nsswitch.conf(5)) with one user, whom no table of /etc has: DOM\carol, 20001. */
#include <errno.h>
#include <nss.h>
#include <pwd.h>
#include <string.h>

enum nss_status _nss_directory_getpwnam_r(const char *, struct passwd *, char *, size_t, int *);
enum nss_status _nss_directory_getpwuid_r(uid_t, struct passwd *, char *, size_t, int *);

static enum nss_status carol(struct passwd *entry, char *buffer, size_t length, int *error) {
    static const char text[] = "DOM\\carol\0x\0\0/\0/bin/sh";
    if (length < sizeof text) {
        *error = ERANGE;
        return NSS_STATUS_TRYAGAIN;
    }
    memcpy(buffer, text, sizeof text);
    entry->pw_name = buffer;
    entry->pw_passwd = buffer + 10;
    entry->pw_gecos = buffer + 12;
    entry->pw_dir = buffer + 13;
    entry->pw_shell = buffer + 15;
    entry->pw_uid = entry->pw_gid = 20001;
    return NSS_STATUS_SUCCESS;
}

enum nss_status _nss_directory_getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t length, int *error) {
    return strcmp(name, "DOM\\carol") == 0 ? carol(entry, buffer, length, error) : NSS_STATUS_NOTFOUND;
}

enum nss_status _nss_directory_getpwuid_r(uid_t uid, struct passwd *entry, char *buffer, size_t length, int *error) {
    return uid == 20001 ? carol(entry, buffer, length, error) : NSS_STATUS_NOTFOUND;
}
