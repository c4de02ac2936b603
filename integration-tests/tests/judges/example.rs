//! `cargo run --example consume` prints what kcat prints of the same topic: byte for byte, with every token, also of records whose key or
//! value is empty or not there, with headers, and with bytes that are no text.

use std::process::Command;

use milena::{Client, NewTopic, Record};
use milena_integration_tests::unique;
use milena_testkit::Cluster;

use super::kcat::kcat_bytes;

/// Runs the example, and returns what it prints. It is built as `cargo test` builds it.
fn consume(servers: &str, arguments: &[&str]) -> Vec<u8> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--quiet", "--workspace", "--profile", "test", "--example", "consume"];
    assert!(Command::new(cargo).args(build).status().unwrap().success(), "the example is built");
    let target = std::env::current_exe().unwrap();
    let program = target.ancestors().nth(2).unwrap().join("examples/consume");
    let output = Command::new(program).args(["--bootstrap-servers", servers]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test]
async fn the_example_prints_what_kcat_prints() {
    let cluster = Cluster::builder().start().await.unwrap();
    compare(&cluster.bootstrap_servers()).await;
    cluster.shutdown().await;
}

async fn compare(servers: &str) {
    let client = Client::builder(servers).connect().await.unwrap();
    let (topic, other) = (unique("printed"), unique("other"));
    client.admin().ensure_topics(&[NewTopic::new(&topic, 1), NewTopic::new(&other, 3)]).await.unwrap();
    let producer = client.producer().build().await.unwrap();
    let one = || Record::to(&topic);
    let several = [
        one(),
        one().key("").value(""),
        one().key("key").value("value"),
        one().key("Schlüssel").value("Wert: ü, %s and \\n"),
        one().key(&[0, 255][..]).value(&[1, 254, b'\n', 0][..]),
        one().value("with headers").header("first", "1").header("second", "").header("first", "3"),
        one().key("with a time").timestamp(1_700_000_000_123),
    ];
    for record in &several {
        producer.send(record).await.unwrap().await.unwrap();
    }
    for number in 0..100 {
        let (key, value) = (format!("key-{}", number % 7), number.to_string());
        drop(producer.send(&Record::to(&other).key(&key).value(&value)).await.unwrap());
    }
    producer.close(std::time::Duration::from_secs(10)).await.unwrap();
    client.close().await;

    let kcat = |arguments: &[&str]| kcat_bytes(servers, &[&["-C", "-e"], arguments].concat(), "");
    let same = |ours: &[u8], theirs: &[u8], what: &str| {
        assert!(!theirs.is_empty(), "{what}");
        assert_eq!(String::from_utf8_lossy(ours), String::from_utf8_lossy(theirs), "{what}");
        assert!(ours == theirs, "{what}: other bytes");
    };
    let all = |topic: &str, format: &str| {
        let to_the_end = ["--topics", topic, "--from-beginning", "--exit-at-end", "--format", format];
        consume(servers, &to_the_end)
    };
    for format in ["%t %p %o %k %s\\n", "%T %K %S %R|%h%%\\t\\x41\\r\\n", "%o=%s\\\\"] {
        same(&all(&topic, format), &kcat(&["-o", "beginning", "-t", &topic, "-f", format]), format);
    }
    // The default is a value and a newline, and %v is another word for the value.
    let plain = consume(servers, &["--topics", &topic, "--from-beginning", "--exit-at-end"]);
    same(&plain, &kcat(&["-o", "beginning", "-t", &topic]), "without a format");
    same(&all(&topic, "%t %p %o %k %v\\n"), &all(&topic, "%t %p %o %k %s\\n"), "%v");

    let sorted = |text: &[u8]| {
        let mut lines: Vec<String> = String::from_utf8_lossy(text).lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n").into_bytes()
    };
    let format = "%t %p %o %k %s\\n";
    let theirs = kcat(&["-o", "beginning", "-t", &other, "-f", format]);
    same(&sorted(&all(&other, format)), &sorted(&theirs), "three partitions");
    let last = ["--topics", &other, "--last", "5", "--exit-at-end", "--format", format];
    let theirs = kcat(&["-o", "-5", "-t", &other, "-f", format]);
    same(&sorted(&consume(servers, &last)), &sorted(&theirs), "the last five of each partition");
    let some = ["--topics", &other, "--partition", "1", "--from-beginning", "--max", "3", "--format", format];
    let theirs = kcat(&["-o", "beginning", "-p", "1", "-c", "3", "-t", &other, "-f", format]);
    same(&consume(servers, &some), &theirs, "three of one partition");
}

#[tokio::test]
async fn the_example_reads_up_to_where_kcat_does_when_a_transaction_is_open() {
    let cluster = Cluster::builder().topic("orders", 1).start().await.unwrap();
    let servers = cluster.bootstrap_servers();
    let client = Client::builder(servers.as_str()).connect().await.unwrap();
    let mut producer = client.producer().transactional_id("orders").build().await.unwrap();
    for number in 0..20 {
        let transaction = producer.begin();
        drop(transaction.send(&Record::to("orders").value(&number.to_string())).await.unwrap());
        transaction.flush().await.unwrap();
        producer = match number % 2 {
            0 => transaction.commit().await.unwrap(),
            _ => transaction.abort().await.unwrap(),
        };
    }
    let open = producer.begin();
    drop(open.send(&Record::to("orders").value("open")).await.unwrap());
    open.flush().await.unwrap();

    let shown = ["--topics", "orders", "--exit-at-end", "--format", "%o %s\\n"];
    for (isolation, of_kcat) in [("read-committed", "read_committed"), ("read-uncommitted", "read_uncommitted")] {
        for (from, of_kcat_from) in [(&["--from-beginning"][..], "beginning"), (&["--last", "8"][..], "-8")] {
            let level = format!("isolation.level={of_kcat}");
            let arguments = ["-C", "-e", "-t", "orders", "-f", "%o %s\\n", "-o", of_kcat_from, "-X", &level];
            let theirs = kcat_bytes(&servers, &arguments, "");
            let ours = consume(&servers, &[&shown[..], from, &["--isolation", isolation]].concat());
            assert!(!theirs.is_empty());
            assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs), "{isolation} {from:?}");
        }
    }
    let _ = open.abort().await.unwrap();
    client.close().await;
    cluster.shutdown().await;
}
