//! SHELL. The stream of clients by gRPC that only listen: a session like any other, whose messages are framed as gRPC
//! has it by their [`Encoding`], so that what many get is encoded once.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_http::{
    RequestHead, StatusCode,
    body::MessageBody as _,
    header::{HeaderName, HeaderValue},
};
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming};
use tonic::{Status, codegen::http};

use super::connections::Serve;
use crate::{
    protocol::{
        encoding::Encoding,
        grpc::framing::{self, Unframed},
    },
    server::{
        admission::{self, Refusal},
        parts::Worker,
        streams,
    },
    session::pipe::StreamBody,
};

/// The one method.
const PATH: &str = "/centrifugal.centrifugo.unistream.CentrifugoUniStream/Consume";
/// How long a request may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers requests on the thread of a worker.
#[derive(Clone)]
pub struct ConsumeService {
    worker: Rc<Worker>,
    message_size_limit: usize,
}

impl ConsumeService {
    /// With requests of so many bytes at most.
    pub fn new(worker: Rc<Worker>, message_size_limit: usize) -> Self {
        Self { worker, message_size_limit }
    }

    async fn open(
        &self,
        request: http::Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<StreamBody, Status> {
        if request.uri().path() != PATH {
            return Err(Status::unimplemented("there is Consume, and nothing else"));
        }
        let (head, mut body) = request.into_parts();
        let admitted =
            admission::admit(&self.worker.parts, &known(&head, peer)).map_err(refused)?;
        let read = tokio::time::timeout(TIMEOUT, read(&mut body, self.message_size_limit)).await;
        let connect =
            read.map_err(|_| Status::deadline_exceeded("the request did not arrive"))??;
        let worker = self.worker.clone();
        // A task of its own: should the client go meanwhile, what was begun is still brought to its end.
        let started = actix_rt::spawn(async move {
            streams::start(&worker, Encoding::OneWayGrpc, admitted, connect).await
        });
        let failed = || Status::internal("no session can be opened");
        started.await.ok().flatten().ok_or_else(failed)
    }
}

impl Serve for ConsumeService {
    type Body = ConsumeBody;

    async fn serve(
        self,
        request: http::Request<Incoming>,
        peer: SocketAddr,
    ) -> http::Response<ConsumeBody> {
        match self.open(request, peer).await {
            Ok(stream) => {
                let mut response = http::Response::new(ConsumeBody(Some(stream)));
                let kind = http::HeaderValue::from_static("application/grpc");
                response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
                response
            }
            Err(status) => status.into_http(),
        }
    }
}

/// What is asked of every client that connects is asked of this one.
fn known(head: &http::request::Parts, peer: SocketAddr) -> RequestHead {
    let mut known = RequestHead::default();
    for (name, value) in &head.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            known.headers.append(name, value);
        }
    }
    known.peer_addr = Some(peer);
    if let Ok(uri) = head.uri.path().parse() {
        known.uri = uri;
    }
    known
}

fn refused(Refusal { status, why }: Refusal) -> Status {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => Status::unavailable(why),
        StatusCode::FORBIDDEN => Status::permission_denied(why),
        _ => Status::resource_exhausted(why),
    }
}

/// The one message of a request.
async fn read(body: &mut Incoming, limit: usize) -> Result<Bytes, Status> {
    let mut whole = BytesMut::new();
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Status::cancelled(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit + framing::PREFIX {
                let why = format!("the request has more than {limit} bytes");
                return Err(Status::resource_exhausted(why));
            }
            whole.extend_from_slice(&data);
        }
    }
    framing::only_message(whole.freeze()).map_err(|why| match why {
        Unframed::Compressed => Status::unimplemented(why.to_string()),
        Unframed::Malformed => Status::internal(why.to_string()),
    })
}

/// The messages of a session, and then the status that ends each stream of gRPC. None: that is told already.
#[derive(Default)]
pub struct ConsumeBody(Option<StreamBody>);

impl Body for ConsumeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(stream) = &mut self.0 else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(stream).poll_next(cx)) {
            Some(Ok(chunk)) => Frame::data(chunk),
            None => {
                self.0 = None;
                let ok = (Status::GRPC_STATUS, http::HeaderValue::from_static("0"));
                Frame::trailers([ok].into_iter().collect())
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
