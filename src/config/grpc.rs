//! What is served by gRPC, and where. Pure.

use super::{
    BODY_LIMIT, Invalid, MAX_WORKERS,
    http_server::{Listen, listen},
    raw,
};

/// The largest request where none is set, in bytes.
const MESSAGE_SIZE: usize = 4 << 20;
/// The same of one that opens a stream.
const CONNECT_SIZE: usize = 65536;

/// The server API by gRPC. The key may be another while the node runs, and is beside this.
#[derive(Debug, Clone)]
pub struct GrpcApi {
    /// Where callers connect.
    pub listen: Listen,
    /// Take calls without a key.
    pub insecure: bool,
    /// Errors are statuses for all callers.
    pub transport_errors: bool,
    /// The largest request, in bytes.
    pub message_size_limit: usize,
    /// TLS, if it is on.
    pub tls: Option<raw::Tls>,
}

/// Streams for clients that only listen.
#[derive(Debug, Clone)]
pub struct UniGrpc {
    /// Where clients connect.
    pub listen: Listen,
    /// Threads that serve them.
    pub workers: usize,
    /// The largest request, in bytes.
    pub message_size_limit: usize,
    /// TLS, if it is on.
    pub tls: Option<raw::Tls>,
}

impl raw::UniGrpc {
    /// None if they are off. `workers` serve other clients.
    pub(super) fn check(&self, workers: usize) -> Result<Option<UniGrpc>, Invalid> {
        if !self.enabled {
            return Ok(None);
        }
        let own = workers.min(MAX_WORKERS.saturating_sub(workers));
        if own == 0 {
            let problem =
                format!("at most {} with uni_grpc, which needs some too", MAX_WORKERS - 1);
            return Err(Invalid::new("http_server.workers", problem));
        }
        let size = self.max_receive_message_size;
        Ok(Some(UniGrpc {
            listen: listen("uni_grpc", &self.address, self.port)?,
            workers: own,
            message_size_limit: message_size(
                "uni_grpc",
                if size == 0 { CONNECT_SIZE } else { size },
            )?,
            tls: self.tls.check("uni_grpc.tls")?,
        }))
    }
}

impl raw::GrpcApi {
    /// None if it is off.
    pub(super) fn check(&self) -> Result<Option<GrpcApi>, Invalid> {
        if !self.enabled {
            return Ok(None);
        }
        if !["", "transport"].contains(&self.error_mode.as_str()) {
            let problem = format!("{:?} is neither \"transport\" nor empty", self.error_mode);
            return Err(Invalid::new("grpc_api.error_mode", problem));
        }
        let message_size_limit = message_size("grpc_api", self.max_receive_message_size)?;
        Ok(Some(GrpcApi {
            listen: listen("grpc_api", &self.address, self.port)?,
            insecure: self.insecure,
            transport_errors: self.error_mode == "transport",
            message_size_limit,
            tls: self.tls.check("grpc_api.tls")?,
        }))
    }
}

fn message_size(section: &str, bytes: usize) -> Result<usize, Invalid> {
    match bytes {
        0 => Ok(MESSAGE_SIZE),
        bytes if bytes <= BODY_LIMIT => Ok(bytes),
        _ => {
            let problem = format!("at most {BODY_LIMIT}");
            Err(Invalid::new(format!("{section}.max_receive_message_size"), problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_have_workers_of_their_own() {
        let raw = raw::UniGrpc { enabled: true, ..Default::default() };
        let workers = |others| raw.check(others).map(|it| it.map(|it| it.workers));
        assert_eq!(workers(2).expect("valid"), Some(2));
        assert_eq!(workers(60).expect("valid"), Some(4));
        assert_eq!(workers(64).expect_err("too many").key, "http_server.workers");
        assert!(raw::UniGrpc::default().check(64).expect("off").is_none());
    }

    #[test]
    fn what_is_on_is_checked() {
        let mut raw = raw::GrpcApi { error_mode: "custom".to_owned(), ..Default::default() };
        assert!(raw.check().expect("off").is_none());
        raw.enabled = true;
        let key = |raw: &raw::GrpcApi| raw.check().expect_err("invalid").key;
        assert_eq!(key(&raw), "grpc_api.error_mode");
        raw.error_mode = "transport".to_owned();
        raw.max_receive_message_size = BODY_LIMIT + 1;
        assert_eq!(key(&raw), "grpc_api.max_receive_message_size");
        raw.max_receive_message_size = 0;
        raw.address = "localhost".to_owned();
        assert_eq!(key(&raw), "grpc_api.address");
        raw.address = "127.0.0.1".to_owned();
        raw.tls.enabled = true;
        assert_eq!(key(&raw), "grpc_api.tls.cert_pem");
        raw.tls.enabled = false;
        let checked = raw.check().expect("valid").expect("on");
        assert_eq!(checked.listen, Listen::On(([127, 0, 0, 1], 10000).into()));
        assert_eq!((checked.message_size_limit, checked.transport_errors), (MESSAGE_SIZE, true));
    }
}
