//! The command line.

use std::time::Duration;

pub(crate) const HELP: &str = "\
nullbroker: a Kafka broker that keeps nothing and answers at once

  --port N                  port of the first broker (default 19092); the port after the last one tells statistics.
                            0: any free ones
  --brokers N               how many brokers the cluster has (default 1)
  --partitions N            partitions of every topic (default 6); partition p is led by broker p modulo brokers
  --rtt MILLISECONDS        every answer is this much later, but the next request need not wait for it (default 0)
  --service-time MICROS     how long a broker works on each request; the next one on the connection waits (default 0)
  --value-size BYTES        of the records that it hands out (default 100)
  --records-per-batch N     of the batches that it hands out (default 150, which makes 16 KB)
  --batches-per-partition N in one Fetch response, at most (default 10)
  --codec none|lz4          of the batches that it hands out (default none)

Every topic exists; every partition has an endless log. Prints its bootstrap.servers, runs until its standard input
is closed, and then prints what it has counted.
";

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) port: u16,
    pub(crate) brokers: u16,
    pub(crate) partitions: i32,
    pub(crate) rtt: Duration,
    pub(crate) service_time: Duration,
    pub(crate) value_size: usize,
    pub(crate) records_per_batch: usize,
    pub(crate) batches_per_partition: usize,
    pub(crate) lz4: bool,
}

impl Options {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            port: 19092,
            brokers: 1,
            partitions: 6,
            rtt: Duration::ZERO,
            service_time: Duration::ZERO,
            value_size: 100,
            records_per_batch: 150,
            batches_per_partition: 10,
            lz4: false,
        };
        while let Some(flag) = words.next() {
            if flag == "--codec" {
                options.lz4 = match words.next().as_deref() {
                    Some("none") => false,
                    Some("lz4") => true,
                    _ => return Err(format!("--codec needs none or lz4\n\n{HELP}")),
                };
                continue;
            }
            let mut number = || -> Result<u64, String> {
                let word = words.next().ok_or_else(|| format!("{flag} needs a value\n\n{HELP}"))?;
                word.parse().map_err(|_| format!("{flag} {word}: that is not a number\n\n{HELP}"))
            };
            match flag.as_str() {
                "--port" => options.port = number()? as u16,
                "--brokers" => options.brokers = number()?.clamp(1, 100) as u16,
                "--partitions" => options.partitions = number()?.clamp(1, 100_000) as i32,
                "--rtt" => options.rtt = Duration::from_millis(number()?),
                "--service-time" => options.service_time = Duration::from_micros(number()?),
                "--value-size" => options.value_size = number()? as usize,
                "--records-per-batch" => options.records_per_batch = number()?.max(1) as usize,
                "--batches-per-partition" => options.batches_per_partition = number()?.max(1) as usize,
                _ => return Err(format!("{flag} is not known here\n\n{HELP}")),
            }
        }
        Ok(options)
    }

    pub(crate) fn leader_of(&self, partition: i32) -> i32 {
        partition % i32::from(self.brokers)
    }
}
