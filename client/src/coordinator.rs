//! Which broker coordinates a group or a transactional id.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use milena_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use milena_protocol::{ErrorCode, Request, StrBytes};

use crate::metadata::snapshot::Broker;
use crate::{Error, ErrorKind};

/// What is coordinated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CoordinatorKind {
    /// A consumer group.
    Group,
    /// A transactional id.
    Transaction,
}

impl fmt::Display for CoordinatorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "group",
            Self::Transaction => "transactional id",
        })
    }
}

/// The coordinators that are known.
#[derive(Debug, Default)]
pub(crate) struct Coordinators(Mutex<BTreeMap<(CoordinatorKind, String), i32>>);

impl Coordinators {
    pub(crate) fn known(&self, kind: CoordinatorKind, key: &str) -> Option<i32> {
        self.lock().get(&(kind, key.to_owned())).copied()
    }

    pub(crate) fn on_found(&self, kind: CoordinatorKind, key: &str, broker: i32) {
        self.lock().insert((kind, key.to_owned()), broker);
    }

    /// Forgets a coordinator that said it is none, or that did not answer.
    pub(crate) fn forget(&self, kind: CoordinatorKind, key: &str) {
        self.lock().remove(&(kind, key.to_owned()));
    }

    /// Forgets it if it is this broker still.
    pub(crate) fn forget_if(&self, kind: CoordinatorKind, key: &str, broker: i32) {
        let (mut known, key) = (self.lock(), (kind, key.to_owned()));
        if known.get(&key) == Some(&broker) {
            known.remove(&key);
        }
    }

    /// Forgets all of them.
    pub(crate) fn forget_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(CoordinatorKind, String), i32>> {
        // Every change is one insertion or removal: a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The question, in the version that the broker speaks: one key up to v3, a list from v4 on (KIP-699).
pub(crate) fn question(version: i16, kind: CoordinatorKind, key: &str) -> FindCoordinatorRequest {
    let key = StrBytes::from_string(key.to_owned());
    let key_type = match kind {
        CoordinatorKind::Group => 0,
        CoordinatorKind::Transaction => 1,
    };
    let request = FindCoordinatorRequest::default();
    let request = if version >= 1 { request.with_key_type(key_type) } else { request };
    if version >= 4 { request.with_coordinator_keys(vec![key]) } else { request.with_key(key) }
}

/// The broker that the answer names.
pub(crate) fn answer(response: &FindCoordinatorResponse, kind: CoordinatorKind, key: &str) -> Result<Broker, Error> {
    let (code, id, host, port) = match response.coordinators.first() {
        Some(found) => (found.error_code, found.node_id.0, &found.host, found.port),
        None => (response.error_code, response.node_id.0, &response.host, response.port),
    };
    ErrorCode(code).ok().map_err(|code| Error::from_code(FindCoordinatorRequest::KEY, code))?;
    match u16::try_from(port) {
        Ok(port) if id >= 0 => Ok(Broker { id, host: host.to_string(), port, rack: None }),
        _ => Err(Error::new(
            ErrorKind::Malformed,
            format!(
                "the coordinator of the {kind} {key:?} was named without a usable address (broker {id}, port {port}): look at that \
                 broker's advertised.listeners, and whether it is up."
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use milena_protocol::messages::BrokerId;
    use milena_protocol::messages::find_coordinator_response::Coordinator;

    use super::*;

    #[test]
    fn both_shapes_of_the_answer_are_read() {
        let host = StrBytes::from_static_str("h");
        let old = FindCoordinatorResponse::default().with_node_id(BrokerId(2)).with_host(host.clone()).with_port(9092);
        assert_eq!(answer(&old, CoordinatorKind::Group, "g").unwrap().id, 2);
        let found = Coordinator::default().with_node_id(BrokerId(3)).with_host(host).with_port(9092);
        let new = FindCoordinatorResponse::default().with_coordinators(vec![found]);
        assert_eq!(answer(&new, CoordinatorKind::Group, "g").unwrap().id, 3);
    }

    #[test]
    fn a_refusal_keeps_its_code_and_nonsense_is_malformed() {
        let refused = FindCoordinatorResponse::default().with_error_code(15);
        let error = answer(&refused, CoordinatorKind::Group, "g").unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::COORDINATOR_NOT_AVAILABLE));
        let nonsense = FindCoordinatorResponse::default().with_node_id(BrokerId(1)).with_port(-1);
        assert_eq!(answer(&nonsense, CoordinatorKind::Group, "g").unwrap_err().kind(), ErrorKind::Malformed);
    }
}
