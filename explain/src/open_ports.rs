//! The ports that the kernel gives to every user of this network namespace, without any rule (ip(7)).

const WHERE: &str = "net.ipv4.ip_unprivileged_port_start";

/// For people, if there are any.
pub(crate) fn text(first: Option<u32>) -> Option<String> {
    let from = first.filter(|&from| from <= u16::MAX.into())?;
    Some(format!("every user can bind ports from {from} on without a rule, and a deny has no effect there: {WHERE}"))
}
