//! SHELL. The server API by gRPC: who may call, and what is called. It is done like a call by HTTP.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::body::Incoming;
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    codegen::{Service as _, http},
    metadata::MetadataMap,
};

use super::{
    connections::Serve,
    messages::{self, Method},
};
use crate::{
    config::grpc::GrpcApi,
    protocol::{
        grpc::{
            api::{
                self,
                centrifugo_api_server::{CentrifugoApi, CentrifugoApiServer},
            },
            status,
        },
        message,
    },
    server::{execution, key, parts::Parts},
};

/// How many calls are done at the same time, whose requests are in memory. More wait, each on its connection.
const CALLS: usize = 512;

/// How long one may take, from the first of its request to its answer.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What callers are told whose key is missing or wrong.
const WITHOUT_KEY: &str =
    "the key (grpc_api.key) is missing or wrong: give it as metadata `authorization: apikey KEY`";

/// Answers requests.
#[derive(Clone)]
pub struct ApiService {
    parts: Arc<Parts>,
    insecure: bool,
    methods: CentrifugoApiServer<Methods>,
    calls: Arc<Semaphore>,
}

impl ApiService {
    /// With these options, but for the key, which may change.
    pub fn new(parts: Parts, options: &GrpcApi) -> Self {
        let parts = Arc::new(parts);
        let methods = Methods { parts: parts.clone(), transport_errors: options.transport_errors };
        let methods =
            CentrifugoApiServer::new(methods).max_decoding_message_size(options.message_size_limit);
        Self { parts, insecure: options.insecure, methods, calls: Arc::new(Semaphore::new(CALLS)) }
    }

    fn admits(&self, headers: &http::HeaderMap) -> bool {
        if self.insecure {
            return true;
        }
        let access = self.parts.access.load();
        let Some(expected) = &access.grpc_api_key else { return false };
        let given = headers.get(http::header::AUTHORIZATION).and_then(|it| it.to_str().ok());
        let given = given.and_then(key::in_authorization).unwrap_or_default();
        key::ApiKey::new(expected).is(given)
    }
}

impl Serve for ApiService {
    type Body = Body;

    /// Nothing of a request is read before its caller is known: callers without the key must not fill the memory.
    async fn serve(
        mut self,
        request: http::Request<Incoming>,
        _: SocketAddr,
    ) -> http::Response<Body> {
        if !self.admits(request.headers()) {
            return Status::unauthenticated(WITHOUT_KEY).into_http();
        }
        // It is never closed.
        let _call = self.calls.clone().acquire_owned().await;
        match tokio::time::timeout(TIMEOUT, self.methods.call(request)).await {
            Ok(Ok(mut response)) => {
                refuse_as_others_do(response.headers_mut());
                response
            }
            Err(_) => Status::deadline_exceeded("it took more than two minutes").into_http(),
        }
    }
}

/// A message that is too large is out of range in tonic's words, and too much of a resource in those of others.
fn refuse_as_others_do(headers: &mut http::HeaderMap) {
    let said = headers.get(Status::GRPC_STATUS).is_some_and(|it| it == "11");
    // Errors of the API have details.
    if said && !headers.contains_key("grpc-status-details-bin") {
        headers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("8"));
    }
}

/// The methods of the service.
pub struct Methods {
    parts: Arc<Parts>,
    transport_errors: bool,
}

impl Methods {
    async fn answer<M: Method>(
        &self,
        request: Request<M>,
    ) -> Result<Response<M::Response>, Status> {
        let as_status = self.transport_errors || wants_transport_errors(request.metadata());
        let called = execution::execute(&self.parts, request.into_inner().call()).await;
        match messages::result::<M>(called) {
            Err(error) if as_status => Err(status_of(error)),
            result => Ok(Response::new(result.map_err(messages::error).into())),
        }
    }

    async fn do_all(
        &self,
        request: Request<api::BatchRequest>,
    ) -> Result<Response<api::BatchResponse>, Status> {
        let batch = request.into_inner();
        let parallel = batch.parallel;
        // It has no field for an error of all.
        let commands = messages::batch(batch).map_err(status_of)?;
        let (calls, replies): (Vec<_>, Vec<_>) = (commands.into_iter())
            .map(|command| match command {
                Ok((call, reply)) => (Ok(call), Some(reply)),
                Err(error) => (Err(error), None),
            })
            .unzip();
        let called = execution::execute_all(&self.parts, calls.into_iter(), parallel).await;
        let replies = replies.into_iter().zip(called);
        let replies = replies.map(|(made, called)| messages::reply(made, called)).collect();
        Ok(Response::new(api::BatchResponse { replies }))
    }
}

macro_rules! methods {
    ($($method:ident: $request:ident, $response:ident;)+) => {
        #[tonic::async_trait]
        impl CentrifugoApi for Methods {
            async fn batch(
                &self,
                request: Request<api::BatchRequest>,
            ) -> Result<Response<api::BatchResponse>, Status> {
                self.do_all(request).await
            }

            $(async fn $method(
                &self,
                request: Request<api::$request>,
            ) -> Result<Response<api::$response>, Status> {
                self.answer(request).await
            })+
        }
    };
}

methods! {
    publish: PublishRequest, PublishResponse;
    broadcast: BroadcastRequest, BroadcastResponse;
    subscribe: SubscribeRequest, SubscribeResponse;
    unsubscribe: UnsubscribeRequest, UnsubscribeResponse;
    disconnect: DisconnectRequest, DisconnectResponse;
    refresh: RefreshRequest, RefreshResponse;
    presence: PresenceRequest, PresenceResponse;
    presence_stats: PresenceStatsRequest, PresenceStatsResponse;
    history: HistoryRequest, HistoryResponse;
    history_remove: HistoryRemoveRequest, HistoryRemoveResponse;
    info: InfoRequest, InfoResponse;
    channels: ChannelsRequest, ChannelsResponse;
    rpc: RpcRequest, RpcResponse;
    map_publish: MapPublishRequest, MapPublishResponse;
    map_remove: MapRemoveRequest, MapRemoveResponse;
    map_read_state: MapReadStateRequest, MapReadStateResponse;
    map_read_stream: MapReadStreamRequest, MapReadStreamResponse;
    map_stats: MapStatsRequest, MapStatsResponse;
    map_clear: MapClearRequest, MapClearResponse;
}

fn wants_transport_errors(metadata: &MetadataMap) -> bool {
    metadata.get("x-centrifugo-error-mode").is_some_and(|mode| mode == "transport")
}

/// An error of the API as a status, with the error itself in its details.
fn status_of(error: message::Error) -> Status {
    let error = messages::error(error);
    let code = match error.code {
        102 | 104 => Code::NotFound,
        107 | 108 => Code::InvalidArgument,
        112 => Code::OutOfRange,
        113 => Code::AlreadyExists,
        _ => Code::Internal,
    };
    let details = status::Status {
        code: code as i32,
        message: error.message.clone(),
        details: vec![status::Any {
            type_url: "type.googleapis.com/centrifugal.centrifugo.api.Error".to_owned(),
            value: error.encode_to_vec(),
        }],
    };
    Status::with_details(code, error.message, details.encode_to_vec().into())
}
