//! Ports that are free, and whose they are while a cluster lives.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::Path;

use crate::settings::{PORTS_PER_CLUSTER, broker_port, controller_port};
use crate::{cannot, problem};

/// The first broker port of the first block.
const FIRST: u16 = 9092;
const BLOCKS: u16 = 100;
/// The most brokers that a block has room for.
const MOST: u16 = 9;

/// A block of ports for one cluster. While this lives nobody else who asks here gets a port of it, so keep it as long as the cluster:
/// the port of a broker that was killed looks free until the broker is started again.
#[derive(Debug)]
pub struct Ports {
    base: u16,
    _ours: Option<File>,
}

impl Ports {
    /// The block that begins with `wanted`, for so many brokers, or the first one from 9092 on that is nobody's and of which no port is
    /// in use.
    ///
    /// # Errors
    /// When a port of the wanted block, or of each of a hundred blocks, is in use.
    pub fn choose(wanted: Option<u16>, brokers: u16) -> io::Result<Self> {
        match wanted {
            Some(base) if !(1024..=65_000).contains(&base) => {
                Err(problem(format!("port {base}: choose one between 1024 and 65000")))
            }
            Some(base) => Self::take(base, brokers)?.map_err(|port| {
                problem(format!("port {port} is in use by another program; choose another one, or leave it away"))
            }),
            None => {
                for block in 0..BLOCKS {
                    // A cluster that has lost its first broker for a moment has its others, so all are looked at.
                    if let Ok(ports) = Self::take(FIRST + block * PORTS_PER_CLUSTER, MOST)? {
                        return Ok(ports);
                    }
                }
                Err(problem("no free ports between 9092 and 11092; choose some"))
            }
        }
    }

    /// The block, or the port of it that somebody else has.
    fn take(base: u16, brokers: u16) -> io::Result<Result<Self, u16>> {
        let ours = match try_lock(&std::env::temp_dir().join(format!("milena-kafka-ports-{base}.lock"))) {
            Ok(Some(file)) => Some(file),
            Ok(None) => return Ok(Err(base)),
            // Another user's file, or a folder that nobody may write to: the ports themselves still say whether they are in use.
            Err(_) => None,
        };
        let taken = (1..=brokers)
            .flat_map(|node| [broker_port(base, node), controller_port(base, node)])
            .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_err());
        Ok(taken.map_or(Ok(Self { base, _ours: ours }), Err))
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
    let file = open(path)?;
    file.lock().map_err(cannot("lock", path))?;
    Ok(file)
}

/// Locks a file until the returned one is dropped; nothing when somebody has it.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(cannot("lock", path)(error)),
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(cannot("create", dir))?;
    }
    File::options().create(true).truncate(false).write(true).open(path).map_err(cannot("open", path))
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

    /// A cluster whose only broker was killed listens nowhere, and comes back.
    #[test]
    fn a_block_has_one_owner_as_long_as_it_is_kept() {
        // Nobody who lets this choose gets a block so high, nor does the kernel give such a port to a connection.
        let base = 20_000 + (std::process::id() % 500) as u16 * PORTS_PER_CLUSTER;
        let first = Ports::choose(Some(base), 1).unwrap();
        let error = Ports::choose(Some(base), 1).unwrap_err().to_string();
        assert!(error.contains(&format!("port {base} is in use")), "{error}");
        drop(first);
        assert_eq!(Ports::choose(Some(base), 1).unwrap().base(), base);
    }
}
