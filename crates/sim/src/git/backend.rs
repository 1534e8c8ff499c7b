//! Git's smart protocol over HTTP, by `git http-backend` as a CGI program on the blocking pool.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::Repos;
use crate::reply::Reply;

/// Most bytes of an answer of git.
const MAX_ANSWER: u64 = 256 << 20;

/// One request as git's CGI program wants it.
pub(crate) struct GitRequest {
    pub(crate) method: String,
    /// `/owner/name.git/...`.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) user: String,
    pub(crate) body: Bytes,
}

/// Runs one request. Dropping the future lets the program end on its own.
pub(crate) async fn run(repos: Arc<Repos>, request: GitRequest) -> Reply {
    let answer = tokio::task::spawn_blocking(move || run_blocking(&repos, request)).await;
    match answer {
        Ok(Ok(output)) => parse_cgi(&output),
        Ok(Err(error)) => broken(&error.to_string()),
        Err(error) => broken(&error.to_string()),
    }
}

fn broken(why: &str) -> Reply {
    Reply::bytes(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "git failed\n").because(why)
}

fn run_blocking(repos: &Repos, request: GitRequest) -> std::io::Result<Vec<u8>> {
    let Some(programs) = repos.exec_path() else {
        return Err(std::io::Error::other("these repositories are in memory, without git"));
    };
    let mut command = Command::new(programs.join("git-http-backend"));
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_PROJECT_ROOT", repos.root())
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("HOME", "/nonexistent")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("REMOTE_USER", &request.user)
        .env("REMOTE_ADDR", "127.0.0.1");
    for (name, value) in [
        ("CONTENT_TYPE", &request.content_type),
        ("HTTP_CONTENT_ENCODING", &request.content_encoding),
        ("GIT_PROTOCOL", &request.protocol),
    ] {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdin = child.stdin.take();
    let body = request.body;
    // Git may answer before it has read everything: write beside reading, or both would wait.
    let writer = std::thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A refused push closes the pipe early; its answer says why.
            let _ = stdin.write_all(&body);
        }
    });
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut output)?;
    }
    let _ = writer.join();
    child.wait()?;
    Ok(output)
}

/// Splits a CGI answer into its head and its body.
fn parse_cgi(output: &[u8]) -> Reply {
    let (head, body) = match split_head(output) {
        Some(parts) => parts,
        None => return broken("git http-backend gave no head"),
    };
    let mut status = StatusCode::OK;
    let mut headers = HeaderMap::new();
    for line in String::from_utf8_lossy(head).lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().and_then(|code| code.parse::<u16>().ok());
            status = code
                .and_then(|code| StatusCode::from_u16(code).ok())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        } else if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            headers.insert(name, value);
        }
    }
    let mut reply = Reply::bytes(status, "application/octet-stream", Bytes::copy_from_slice(body));
    reply.headers.extend(headers);
    reply
}

fn split_head(output: &[u8]) -> Option<(&[u8], &[u8])> {
    for separator in [&b"\r\n\r\n"[..], b"\n\n"] {
        if let Some(at) = output.windows(separator.len()).position(|window| window == separator) {
            return Some((&output[..at], &output[at + separator.len()..]));
        }
    }
    None
}
