//! Ports that are free, chosen by one program at a time.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::Path;

use crate::settings::{PORTS_PER_CLUSTER, broker_port, controller_port};
use crate::{cannot, problem};

/// A block of ports for one cluster. While this lives no other program that asks here gets ports, so keep it until the brokers
/// have theirs.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    _one_at_a_time: Option<File>,
}

impl Ports {
    /// The block that begins with `wanted`, or the first free one from 9092 on.
    ///
    /// # Errors
    /// When a port of the wanted block, or of each of a hundred blocks, is in use.
    pub fn choose(wanted: Option<u16>, brokers: u16) -> io::Result<Self> {
        // Two programs that start a cluster at the same moment must not choose the same ports.
        let one_at_a_time = lock(&std::env::temp_dir().join("milena-xtask-kafka-ports.lock")).ok();
        let first_taken = |base: u16| {
            (1..=brokers)
                .flat_map(|node| [broker_port(base, node), controller_port(base, node)])
                .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_err())
        };
        let base = match wanted {
            Some(base) if !(1024..=65_000).contains(&base) => {
                return Err(problem(format!("port {base}: choose one between 1024 and 65000")));
            }
            Some(base) => match first_taken(base) {
                None => base,
                Some(port) => {
                    return Err(problem(format!(
                        "port {port} is in use by another program; choose another one, or leave it away"
                    )));
                }
            },
            None => (0..100)
                .map(|block| 9092 + block * PORTS_PER_CLUSTER)
                .find(|base| first_taken(*base).is_none())
                .ok_or_else(|| problem("no free ports between 9092 and 11092; choose some"))?,
        };
        Ok(Self { base, _one_at_a_time: one_at_a_time })
    }

    /// The port of the first broker; those of the others follow it.
    pub fn base(&self) -> u16 {
        self.base
    }
}

/// Locks a file until the returned one is dropped; waits for whoever has it.
///
/// # Errors
/// When the file cannot be made or locked.
pub fn lock(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(cannot("create", dir))?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(cannot("open", path))?;
    file.lock().map_err(cannot("lock", path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_refused_by_name() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Ports::choose(Some(port), 1).unwrap_err().to_string();
        assert!(error.contains(&format!("port {port} is in use")), "{error}");
        assert!(Ports::choose(Some(80), 1).unwrap_err().to_string().contains("between 1024"));
    }
}
