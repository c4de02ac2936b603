//! Java's own tools, which say what a Java program would see.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// `cargo xtask`, as whoever runs this test has built it.
pub fn xtask() -> Command {
    match std::env::var_os("MILENA_XTASK") {
        Some(xtask) => Command::new(xtask),
        None => {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
            cargo.args(["run", "--quiet", "--package", "xtask", "--"]);
            cargo
        }
    }
}

/// Runs a class of Kafka's class path (`cargo xtask kafka run`) with `input` on its standard input, and returns its standard output.
///
/// It takes the time of a JVM to start, about a second; call it from a thread that may block.
///
/// # Panics
/// When it fails; what it said is in the test's output.
pub fn java_tool(class: &str, arguments: &[&str], input: &str) -> String {
    let mut tool = xtask()
        .args(["kafka", "run", class])
        .args(arguments)
        // A tool that lives for a second has no use for the optimising compiler, which would take another one.
        .env("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("xtask is built, since cargo xtask test runs this test");
    let mut stdin = tool.stdin.take().expect("it was asked for");
    let input = input.to_owned();
    // Aside, so that neither waits for the other when both have much to say. Dropped after the write, which closes it.
    #[expect(clippy::disallowed_methods, reason = "a pipe to another process has to be written aside")]
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = tool.wait_with_output().expect("the tool ends");
    let written = writer.join().expect("it does nothing but write");
    assert!(output.status.success(), "{class} {arguments:?} ended with {}", output.status);
    written.expect("the tool reads its input");
    String::from_utf8(output.stdout).expect("text")
}
