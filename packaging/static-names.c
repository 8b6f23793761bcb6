/* Linked into the programs of `packaging/build --static`, where the C library is glibc.
 *
 * glibc asks the modules that /etc/nsswitch.conf names for users and hosts. A static program loads them from the system,
 * together with the system's own C library, and crashes if that is of another version. This leaves only what is built in. */
#include <nss.h>

__attribute__((constructor)) static void built_in_names_only(void)
{
    static const char *const databases[] = {"passwd", "group", "initgroups", "shadow", "gshadow", "services", "protocols", "networks"};
    for (unsigned i = 0; i < sizeof databases / sizeof *databases; i++)
        __nss_configure_lookup(databases[i], "files");
    __nss_configure_lookup("hosts", "files dns");
}
