//! The installed programs with real users and real servers. `tests/run` starts this.

mod accepting;
mod accepting_datagrams;
mod accepting_servers;
mod audit;
mod daemon;
mod exim;
mod explaining;
mod handing_over;
mod hostile;
mod inert;
mod inetd;
mod innd;
mod launching;
mod multihomed;
mod naming;
mod nginx;
mod own_socket;
mod passing;
mod policy_files;
mod privilege;
mod receiving;
mod refusals;
mod sockets;
mod telnet;
mod world;
