//! For tests, here and elsewhere: a Redis server of one's own, on a socket in a temporary folder,
//! that ends with its owner.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

/// Longest wait for a server to come up; a busy machine takes its time.
const START: Duration = Duration::from_secs(30);

/// A Redis server that keeps its data in a temporary folder, every write on disk at once.
pub struct RedisServer {
    folder: TempDir,
    options: Vec<String>,
    server: Option<Child>,
}

impl RedisServer {
    /// Starts a server.
    ///
    /// # Panics
    ///
    /// If there is no redis-server, or it does not start: tests that need one fail.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with further options, as on its command line: `["--requirepass", "x"]`.
    ///
    /// # Panics
    ///
    /// As [`RedisServer::start`].
    pub fn with(options: &[&str]) -> Self {
        let folder = match tempfile::Builder::new().prefix("steadfast-redis").tempdir() {
            Ok(folder) => folder,
            Err(error) => panic!("no folder for a redis server: {error}"),
        };
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut server = RedisServer { folder, options, server: None };
        server.restart();
        server
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Its URL, for `queue.url`; the same after a restart.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Kills it, as a power cut would. What it had acknowledged is on its disk.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // Both fail only if it has ended already.
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Starts it again, on the same socket with the same data; kills it before if it runs.
    ///
    /// # Panics
    ///
    /// As [`RedisServer::start`].
    pub fn restart(&mut self) {
        self.stop();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        command.arg("--unixsocket").arg(self.socket()).arg("--dir").arg(self.folder.path());
        command.args(&self.options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = match command.spawn() {
            Ok(server) => server,
            Err(error) => {
                panic!("redis-server cannot be run ({error}): install it, apt-get install redis-server")
            }
        };
        let log = server.stdout.take();
        self.server = Some(server);
        let (ready, is_ready) = mpsc::channel();
        // Reads on to the end, or the server would stall on a full pipe.
        std::thread::spawn(move || {
            let mut said = Vec::new();
            for line in log.map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                if line.contains("eady to accept connections") {
                    // Whoever waited may have given up.
                    let _ = ready.send(Ok(()));
                    said.clear();
                } else if said.len() < 100 {
                    said.push(line);
                }
            }
            let _ = ready.send(Err(said.join("\n")));
        });
        match is_ready.recv_timeout(START) {
            Ok(Ok(())) => {}
            Ok(Err(said)) => panic!("redis-server did not start:\n{said}"),
            Err(_) => panic!("redis-server was not ready within {START:?}"),
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}
