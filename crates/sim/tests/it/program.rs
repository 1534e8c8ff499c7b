//! The simulation as a program of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// Ends the program even where the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_says_where_it_listens_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (temporary, key) = (dir.path().join("tmp"), dir.path().join("app.pem"));
    std::fs::create_dir(&temporary).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_steadfast-sim"))
        .args(["--rpm", "60", "--repository", "o/one", "--repository", "o/two", "--app-key-out"])
        .arg(&key)
        .env("TMPDIR", &temporary)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["repositories"], serde_json::json!(["o/one", "o/two"]));
    assert!(std::fs::read_to_string(&key).unwrap().contains("PRIVATE KEY"));
    let address = ready["listening"].as_str().unwrap();
    let issues = get(address, "/_sim/issues");
    assert!(issues.starts_with("HTTP/1.1 200") && issues.contains("roman 4 prints IIII"), "{issues}");
    assert!(get(address, "/repos/o/two").starts_with("HTTP/1.1 403"), "no user-agent");
    assert!(std::fs::read_dir(&temporary).unwrap().next().is_some());

    let killed = Command::new("kill").arg(running.0.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert!(running.0.wait().unwrap().success());
    assert!(std::fs::read_dir(&temporary).unwrap().next().is_none());
}

#[test]
fn it_says_what_is_wrong_with_its_arguments() {
    for (arguments, needle) in [
        (["--repository", "nonsense"], "OWNER/NAME"),
        (["--repository", "a/../b"], "letters, digits"),
        (["--faults-rate", "7"], "0 to 1"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_steadfast-sim")).args(arguments).output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(needle), "{said}");
    }
}
