//! The world over real HTTP/1.1: a reset resets the connection, a cut cuts the body, a hang hangs.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::reply::{Ending, Outcome, Reply};
use crate::world::World;

/// Most bytes of a request's body: a push of a whole repository.
const MAX_REQUEST: usize = 64 << 20;

type HttpBody = UnsyncBoxBody<Bytes, io::Error>;

/// A world that is served; it stops when this is dropped or shut down.
#[derive(Debug)]
pub struct ServeHandle {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl ServeHandle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://` and the address.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops listening, breaks all connections, and returns when that is done.
    pub async fn shutdown(mut self) {
        drop(self.stop.take());
        // It ended or was aborted: either way nothing is left of it.
        let _ = (&mut self.task).await;
    }
}

impl Drop for ServeHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    /// Serves the world on a listener, in the background of the current runtime.
    pub fn serve(self: &Arc<Self>, listener: TcpListener) -> io::Result<ServeHandle> {
        let addr = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept(Arc::clone(self), listener, stopped));
        Ok(ServeHandle { addr, stop: Some(stop), task })
    }
}

async fn accept(world: Arc<World>, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
    // Dropped with this future, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&world), stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::task::yield_now().await;
                }
            },
        }
    }
}

async fn connection(world: Arc<World>, stream: TcpStream) {
    let reset = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Breakable { stream, reset: Arc::clone(&reset) });
    let service = service_fn(move |request| exchange(Arc::clone(&world), Arc::clone(&reset), request));
    let http = hyper::server::conn::http1::Builder::new();
    if let Err(error) = http.serve_connection(io, service).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// Why a connection is broken instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is broken by a fault")]
struct Broken;

async fn exchange(
    world: Arc<World>,
    reset: Arc<AtomicBool>,
    request: Request<Incoming>,
) -> Result<Response<HttpBody>, Broken> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_REQUEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let message = format!("request not read: {error}\n");
            return Ok(response(Reply::bytes(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", message)));
        }
    };
    // A server goes on with its work when a client gives up waiting: hence a task of its own.
    let request = Request::from_parts(parts, body);
    match tokio::spawn(async move { world.answer(request).await }).await {
        Ok(Outcome::Reply(reply)) => Ok(response(reply)),
        Ok(Outcome::Reset) => {
            reset.store(true, Ordering::Relaxed);
            Err(Broken)
        }
        Ok(Outcome::Hang) => std::future::pending().await,
        Err(error) => {
            let message = format!("the simulation failed: {error}\n");
            Ok(response(Reply::bytes(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", message)))
        }
    }
}

fn response(reply: Reply) -> Response<HttpBody> {
    let is_whole = reply.ending == Ending::Whole && reply.pieces.len() <= 1;
    let body: HttpBody = if is_whole && reply.pieces.iter().all(|piece| piece.pause.is_zero()) {
        Full::new(Bytes::from(reply.body())).map_err(|never| match never {}).boxed_unsync()
    } else {
        let pieces = Reply::stream(reply.pieces, reply.ending);
        let frames = pieces.map(|piece| piece.map(Frame::data).map_err(io::Error::other));
        BodyExt::boxed_unsync(StreamBody::new(frames))
    };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = *reply.headers;
    response
}

/// A connection that can end with a reset instead of an orderly close.
struct Breakable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Breakable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            // Closing a socket that lingers for no time sends a reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
