//! Stands between a store and its server, and does to the requests what a test wants: lets them
//! pass, answers in the server's place, is silent, or leads to another server.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use steadfast_store::testing::RedisServer;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// What happens to what is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the server whose socket it is.
    Open(PathBuf),
    /// To the server, but for requests that need data: they are answered so.
    Answer(PathBuf, String),
    /// To nobody: who comes is let in and hears nothing.
    Nowhere,
}

pub struct Gate {
    folder: tempfile::TempDir,
    way: watch::Sender<Way>,
    came: Arc<AtomicUsize>,
    numbers: Numbers,
}

/// Numbers that went to the server as words of their own.
type Numbers = Arc<Mutex<BTreeSet<u64>>>;

impl Gate {
    pub fn before(server: &RedisServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("gate.sock")).unwrap();
        let way = watch::Sender::new(Way::Open(server.socket()));
        let gate = Gate { folder, way, came: Arc::default(), numbers: Arc::default() };
        let (way, came) = (gate.way.subscribe(), Arc::clone(&gate.came));
        let numbers = Arc::clone(&gate.numbers);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                came.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(between(client, way.clone(), Arc::clone(&numbers)));
            }
        });
        gate
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("gate.sock").display())
    }

    /// Lets everything pass; connections to another server are cut.
    pub fn open(&self, to: &RedisServer) {
        self.way.send_replace(Way::Open(to.socket()));
    }

    /// Cuts what there is, and is silent to who comes; how many came until then.
    pub fn lead_nowhere(&self) -> usize {
        self.way.send_replace(Way::Nowhere);
        self.came()
    }

    /// How many connections were made.
    pub fn came(&self) -> usize {
        self.came.load(Ordering::Relaxed)
    }

    /// Numbers that went to the server.
    pub fn numbers(&self) -> BTreeSet<u64> {
        self.numbers.lock().unwrap().clone()
    }

    /// Answers with an error from now on.
    pub fn answer(&self, server: &RedisServer, error: &str) {
        self.way.send_replace(Way::Answer(server.socket(), error.to_owned()));
    }
}

fn socket(way: &Way) -> Option<&PathBuf> {
    match way {
        Way::Open(socket) | Way::Answer(socket, _) => Some(socket),
        Way::Nowhere => None,
    }
}

async fn between(client: UnixStream, mut way: watch::Receiver<Way>, numbers: Numbers) {
    let first = socket(&way.borrow_and_update()).cloned();
    let Some(first) = first else {
        // Held until the way changes, or the test ends.
        let _ = way.changed().await;
        drop(client);
        return;
    };
    let Ok(server) = UnixStream::connect(&first).await else { return };
    let (from_client, to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let to_client = Arc::new(tokio::sync::Mutex::new(to_client));
    let answers = Arc::clone(&to_client);
    let answering = async move {
        let mut answer = vec![0; 1 << 16];
        loop {
            match from_server.read(&mut answer).await {
                Ok(0) | Err(_) => break,
                Ok(bytes) => {
                    if answers.lock().await.write_all(&answer[..bytes]).await.is_err() {
                        break;
                    }
                }
            }
        }
    };
    let here = way.clone();
    let asking = async move {
        let mut from_client = BufReader::new(from_client);
        while let Some(words) = request(&mut from_client).await {
            let first = String::from_utf8_lossy(&words[0]).to_uppercase();
            let texts = words.iter().filter_map(|word| std::str::from_utf8(word).ok());
            numbers.lock().unwrap().extend(texts.filter_map(|text| text.parse::<u64>().ok()));
            let now = here.borrow().clone();
            let sent = match now {
                // What a connection begins with is answered whatever the server's state.
                Way::Answer(_, error) if !matches!(first.as_str(), "HELLO" | "CLIENT") => {
                    to_client.lock().await.write_all(format!("-{error}\r\n").as_bytes()).await
                }
                Way::Nowhere => break,
                Way::Open(_) | Way::Answer(..) => to_server.write_all(&written(&words)).await,
            };
            if sent.is_err() {
                break;
            }
        }
    };
    let moved = way.wait_for(|way| socket(way) != Some(&first));
    tokio::select! {
        () = answering => {}
        () = asking => {}
        _ = moved => {}
    }
}

/// Reads one request, as its words: `*2`, `$3`, `GET`, `$1`, `x`, each with its line's end.
pub async fn request(from: &mut (impl AsyncBufRead + Unpin)) -> Option<Vec<Vec<u8>>> {
    let count = number(from, '*').await?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; number(from, '$').await? + 2];
        from.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(word);
    }
    Some(words)
}

async fn number(from: &mut (impl AsyncBufRead + Unpin), mark: char) -> Option<usize> {
    let mut line = String::new();
    from.read_line(&mut line).await.ok()?;
    line.strip_prefix(mark)?.trim_end().parse().ok()
}

/// Writes one request, as it was read.
pub fn written(words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}
