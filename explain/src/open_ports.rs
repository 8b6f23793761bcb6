//! The ports that the kernel gives to every user of this network namespace, without any rule (ip(7)).

const WHERE: &str = "net.ipv4.ip_unprivileged_port_start";

/// The first of them; 65536 if there are none.
pub(crate) fn first() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok()?.trim().parse().ok()
}

/// For people, if there are any.
pub(crate) fn text(first: Option<u32>) -> Option<String> {
    let from = first.filter(|&from| from <= u16::MAX.into())?;
    Some(format!("every user can bind ports from {from} on without a rule, and a deny has no effect there: {WHERE}"))
}
