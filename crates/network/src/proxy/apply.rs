//! Sends the desired table to the kernel: whole once, then by differences, one transaction each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::base::{self, AFFINITY};
use super::compile::Frontend;
use super::desired::{Change, Desired};
use super::endpoints::Target;
use crate::cni::{hostports, ipam};
use crate::config::Config;
use crate::netlink::nft::{Chain, Family, Set, Table};
use crate::netlink::{self, Message, Socket};

/// Why the table could not be brought to its desired state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("service table: {0}")]
    Netlink(#[from] netlink::Error),
    /// The address files, from which host ports are restored, could not be read.
    #[error("host ports: {0}")]
    HostPorts(#[from] ipam::Error),
}

/// The table in the kernel.
pub struct Applier {
    table: Table,
    address_files: PathBuf,
}

/// Messages with what each does, for errors.
#[derive(Default)]
struct Batch {
    messages: Vec<Message>,
    labels: Vec<(usize, String)>,
}

impl Batch {
    fn push(&mut self, what: impl Into<String>, messages: impl IntoIterator<Item = Message>) {
        self.labels.push((self.messages.len(), what.into()));
        self.messages.extend(messages);
    }

    fn send(self, socket: &mut Socket) -> Result<(), netlink::Error> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let labels = self.labels;
        socket.batch(self.messages, |position| {
            let next = labels.partition_point(|(start, _)| *start <= position);
            labels.get(next.wrapping_sub(1)).map_or_else(|| "apply nf_tables batch".to_owned(), |l| l.1.clone())
        })
    }
}

impl Applier {
    /// The applier of a node's table.
    pub fn new(config: &Config) -> Self {
        Self { table: table(config), address_files: config.cni_dir() }
    }

    /// The table's name and family.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Makes the table anew in one transaction; connections and affinity go on.
    pub fn whole(&self, desired: &Desired) -> Result<(), Error> {
        let mut socket = Socket::netfilter()?;
        let change = desired.whole();
        let affinity = socket.expiring_elements(&self.table, AFFINITY)?;
        let mut batch = Batch::default();
        // Creating first makes the deletion possible when there is no table.
        let fresh = [self.table.create(), self.table.delete(), self.table.create()];
        batch.push(format!("make table {}", self.table.name), fresh);
        let mut sets = base::sets();
        sets.extend(change.new_sets.iter().cloned());
        self.sets(&mut batch, &sets);
        let mut chains = base::chains(desired.layout());
        chains.extend(change.new_chains.iter().cloned());
        self.chains(&mut batch, &chains);
        self.elements(&mut batch, &change);
        // Before the commit, so that no host port is missing for an instant …
        let attachments = hostports::attachments(&self.address_files)?;
        let messages = hostports::restore(&self.table, &attachments);
        batch.push("restore host ports", messages);
        batch.push("restore affinity", self.table.add_expiring(AFFINITY, &affinity));
        batch.send(&mut socket)?;
        // … and after it: the plug-in writes its file before it looks for the table.
        self.host_ports(&mut socket)?;
        forget_stale(&mut socket, &change.udp)?;
        Ok(())
    }

    fn host_ports(&self, socket: &mut Socket) -> Result<(), Error> {
        let attachments = hostports::attachments(&self.address_files)?;
        let mut batch = Batch::default();
        let messages = hostports::restore(&self.table, &attachments);
        batch.push("restore host ports", messages);
        batch.send(socket)?;
        Ok(())
    }

    /// Applies a change in one transaction.
    pub fn change(&self, change: &Change) -> Result<(), Error> {
        let mut socket = Socket::netfilter()?;
        let mut batch = Batch::default();
        self.sets(&mut batch, &change.new_sets);
        self.chains(&mut batch, &change.new_chains);
        self.elements(&mut batch, change);
        for chain in &change.dead_chains {
            let messages = [self.table.flush_chain(chain), self.table.delete_chain(chain)];
            batch.push(format!("delete chain {chain}"), messages);
        }
        for set in &change.dead_sets {
            batch.push(format!("delete set {set}"), [self.table.delete_set(set)]);
        }
        batch.send(&mut socket)?;
        forget_stale(&mut socket, &change.udp)?;
        Ok(())
    }

    fn sets(&self, batch: &mut Batch, sets: &[Set]) {
        for (id, set) in sets.iter().enumerate() {
            let message = self.table.create_set(set, id as u32 + 1);
            batch.push(format!("create set {}", set.name), [message]);
        }
    }

    fn chains(&self, batch: &mut Batch, chains: &[Chain]) {
        for chain in chains {
            let message = self.table.create_chain(chain);
            batch.push(format!("create chain {}", chain.name), [message]);
        }
        for chain in chains {
            for (number, rule) in chain.rules.iter().enumerate() {
                let message = self.table.append_rule(&chain.name, rule);
                let what = format!("add rule {} of chain {}", number + 1, chain.name);
                batch.push(what, [message]);
            }
        }
    }

    fn elements(&self, batch: &mut Batch, change: &Change) {
        for (set, elements) in &change.delete {
            let messages = self.table.delete_elements(set, elements);
            batch.push(format!("delete elements of {set}"), messages);
        }
        for (set, elements) in &change.add {
            let messages = self.table.add_elements(set, elements);
            batch.push(format!("add elements to {set}"), messages);
        }
    }

    /// Whether the table is in the kernel (another program may have flushed the ruleset).
    pub fn exists(&self) -> Result<bool, Error> {
        Ok(Socket::netfilter()?.table_exists(&self.table)?)
    }
}

fn table(config: &Config) -> Table {
    Table { family: Family::Ip, name: config.table.clone() }
}

/// Deletes tracked UDP connections to frontends that lead to what is not an endpoint.
fn forget_stale(socket: &mut Socket, udp: &BTreeMap<Frontend, BTreeSet<Target>>) -> Result<(), netlink::Error> {
    const UDP: u8 = 17;
    if udp.is_empty() {
        return Ok(());
    }
    for connection in socket.connections(UDP)? {
        let (IpAddr::V4(ip), port) = connection.destination else {
            continue;
        };
        let (IpAddr::V4(endpoint), endpoint_port) = connection.endpoint else {
            continue;
        };
        let endpoints = udp.get(&Frontend::Address(ip, UDP, port)).or_else(|| udp.get(&Frontend::NodePort(UDP, port)));
        if endpoints.is_some_and(|e| !e.contains(&(endpoint, endpoint_port))) {
            socket.delete_connection(&connection)?;
        }
    }
    Ok(())
}

/// Deletes the node's table; one that does not exist is no error.
pub fn purge(config: &Config) -> Result<(), netlink::Error> {
    let table = table(config);
    let what = |_| format!("delete table {}", table.name);
    Socket::netfilter()?.batch(vec![table.create(), table.delete()], what)
}

/// The resolver's address on the node, as `View` wants it.
pub fn resolver_address(config: &Config) -> Option<(Ipv4Addr, Ipv4Addr)> {
    Some((config.dns_ip, config.gateway()?))
}
