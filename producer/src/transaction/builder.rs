//! From a transactional id to a producer that has it.

use std::sync::Arc;
use std::time::Duration;

use milena_client::{Client, Error, ErrorKind};

use super::producer::TransactionalProducer;
use crate::config::Config;

/// Builds a [`TransactionalProducer`]. Settings of sending come before, on the [`ProducerBuilder`](crate::ProducerBuilder).
#[derive(Debug, Clone)]
#[must_use]
pub struct TransactionalProducerBuilder {
    client: Client,
    /// Checked already, or why not.
    config: Result<Config, Error>,
    id: Arc<str>,
    timeout: Duration,
}

impl TransactionalProducerBuilder {
    pub(crate) fn new(client: Client, config: Result<Config, Error>, id: Arc<str>) -> Self {
        Self { client, config, id, timeout: Duration::from_secs(60) }
    }

    /// How long a transaction may last before its coordinator aborts it and fences the producer. Default 60 s; brokers allow at most
    /// `transaction.max.timeout.ms` (15 min). Shorter: readers of committed records wait less for a producer that has died. Java:
    /// `transaction.timeout.ms`.
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Takes the transactional id: fences whoever had it, and aborts what they left open. Waits at most
    /// [`max_block`](crate::ProducerBuilder::max_block), also for the outcome of an earlier transaction of the same id that this client
    /// is still ending.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when settings contradict one another, or the time-out is longer than brokers allow; the last failure to
    /// reach the coordinator; what it says about the rights.
    ///
    /// # Cancel safety
    /// Dropped, there is no producer; the id may have been taken nevertheless.
    pub async fn build(self) -> Result<TransactionalProducer, Error> {
        let config = self.config?;
        if self.id.is_empty() {
            return Err(Error::new(ErrorKind::Config, "the transactional id is empty: give the producer a name."));
        }
        if !config.idempotence {
            return Err(Error::new(
                ErrorKind::Config,
                "transactions need idempotence: leave acks and idempotence at their defaults.",
            ));
        }
        if self.timeout.is_zero() || i32::try_from(self.timeout.as_millis()).is_err() {
            return Err(Error::new(
                ErrorKind::Config,
                format!("transaction_timeout is {:?}: it must be between 1 ms and 24 days.", self.timeout),
            ));
        }
        TransactionalProducer::start(&self.client, config, self.id, self.timeout).await
    }
}
