//! The agent's client of etcd, its backups and what is restored from them, with a real etcd (Debian's 3.5; the product
//! ships 3.6).

mod backups;
mod client;
mod restore;
mod rewriting;
