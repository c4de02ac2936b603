//! The bare repartition loop on real Kafka: every word is produced and fetched again, and nothing else is done.
//!
//! The broker shares the cores, so its CPU time stands beside the client's: together they are what a word costs here.

use crate::{Options, client, programs};

pub(crate) fn run(options: &Options, bootstrap_servers: &str) -> Result<(), String> {
    let folder = programs()?;
    println!("words produced and fetched again on real Kafka, 6 partitions, {} words a run", options.records);
    println!("{:>14} {:>20} {:>20}", "words/s", "client CPU µs/word", "broker CPU µs/word");
    let broker_cpu = || options.broker_pid.and_then(|pid| spine::cpu_of_process(pid, false));
    let mut rates = Vec::new();
    for _ in 0..options.rounds {
        let before = broker_cpu();
        let report = client(folder.join("milena-repartition"), &[bootstrap_servers, &options.records.to_string()])?;
        let broker = broker_cpu().zip(before).map_or_else(
            || "?".to_owned(),
            |(after, before)| {
                format!("{:.2}", after.saturating_sub(before).as_secs_f64() * 1e6 / report.records as f64)
            },
        );
        println!("{:>14.0} {:>20.2} {broker:>20}", report.rate(), report.cpu_per_record());
        rates.push(report.rate());
    }
    rates.sort_by(f64::total_cmp);
    println!("median: {:.0} words/s", rates.get(rates.len() / 2).copied().unwrap_or_default());
    Ok(())
}
