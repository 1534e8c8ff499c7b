//! The world behind the transport seam, in the process: no socket, tokio's clock only.

use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use http::{Request, Response};
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use tokio::time::timeout;

use crate::reply::{Outcome, Reply};
use crate::world::World;

struct InProcess(Arc<World>);

impl World {
    /// The world as a transport: what is sent by it never leaves the process.
    pub fn transport(self: &Arc<Self>) -> Arc<dyn Transport> {
        Arc::new(InProcess(Arc::clone(self)))
    }
}

#[async_trait]
impl Transport for InProcess {
    async fn send(
        &self,
        request: Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<Response<Body>, TransportError> {
        if request.uri().scheme().is_none() || request.uri().host().is_none() {
            return Err(TransportError::Unusable(format!("{} is not an absolute URL", request.uri())));
        }
        let world = Arc::clone(&self.0);
        // A server goes on with its work when a client gives up waiting: hence a task of its own.
        let work = tokio::spawn(async move { world.answer(request).await });
        let answer = async {
            match work.await {
                Ok(Outcome::Reply(reply)) => Ok(reply),
                Ok(Outcome::Reset) => Err(TransportError::Lost("connection reset by peer".to_owned())),
                Ok(Outcome::Hang) => pending().await,
                Err(error) => Err(TransportError::Lost(format!("the simulation failed: {error}"))),
            }
        };
        let first_byte = timeouts.first_byte;
        let reply = timeout(first_byte, answer)
            .await
            .map_err(|_| TransportError::Timeout { what: "answer", after: first_byte })??;
        Ok(response(reply, timeouts))
    }
}

fn response(reply: Reply, timeouts: Timeouts) -> Response<Body> {
    let pieces = Reply::stream(reply.pieces, reply.ending);
    let body: Body = Box::pin(stream::unfold(Some(pieces), move |state| async move {
        let mut pieces = state?;
        match timeout(timeouts.idle, pieces.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(data))) => Some((Ok(data), Some(pieces))),
            Ok(Some(Err(error))) => Some((Err(TransportError::CutOff(error.to_string())), None)),
            Err(_) => {
                let error = TransportError::Timeout { what: "further data", after: timeouts.idle };
                Some((Err(error), None))
            }
        }
    }));
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    *response.headers_mut() = *reply.headers;
    response
}
