//! Which backends are asked about what, as the configuration says it.

use std::collections::BTreeMap;

use reqwest::header::{HeaderName, HeaderValue};

use super::{
    Invalid, Problems, check_name, nearest,
    raw::{self, DEFAULT_PROXY, Proxy, Raw},
};
use crate::backend::{
    headers,
    options::{
        Backend, BackendId, Methods, Protocol, Proxies, RoomBackends, RoomProxies, Status,
        StreamBackend, Verdict,
    },
    response,
};

/// The longest that a backend may take: commands wait for it.
const MAX_TIMEOUT: u64 = 60;

/// Backends by where the configuration has them. Only those that are asked are in the list.
pub(super) struct Register<'a> {
    raw: &'a Raw,
    backends: Vec<Backend>,
    ids: BTreeMap<String, BackendId>,
    rooms: RoomBackends,
}

impl<'a> Register<'a> {
    /// One that has the backends that have names, used or not.
    pub(super) fn new(raw: &'a Raw, problems: &mut Problems) -> Self {
        let mut register = Self {
            raw,
            backends: Vec::new(),
            ids: BTreeMap::new(),
            rooms: RoomBackends::default(),
        };
        for (index, proxy) in raw.proxies.iter().enumerate() {
            let key = format!("proxies[{index}]");
            problems.take(check_name(&format!("{key}.name"), &proxy.name));
            if proxy.name == DEFAULT_PROXY || register.ids.contains_key(&proxy.name) {
                let problem = format!("{:?} is taken", proxy.name);
                problems.add(Invalid::new(format!("{key}.name"), problem));
                continue;
            }
            let added = register.add(&key, proxy.name.clone(), proxy.clone().into());
            if problems.take(added).is_none() {
                // It is there, so who names it makes no mistake.
                register.ids.insert(proxy.name.clone(), BackendId(0));
            }
        }
        register
    }

    fn add(&mut self, key: &str, name: String, proxy: Proxy) -> Result<BackendId, Invalid> {
        let backend = proxy.check(name.clone()).map_err(|it| it.under(key))?;
        let id = u16::try_from(self.backends.len())
            .map(BackendId)
            .map_err(|_| Invalid::new(key, "there are too many backends"))?;
        self.backends.push(backend);
        self.ids.insert(name, id);
        Ok(id)
    }

    /// The backend of this name. `default` is the one at that key.
    fn named(
        &mut self,
        key: &str,
        name: &str,
        default: (&str, &Proxy),
    ) -> Result<BackendId, Invalid> {
        // Where nothing is named, it is the default too.
        let (name, at_default) = match name {
            "" | DEFAULT_PROXY => (default.0, true),
            name => (name, false),
        };
        match self.ids.get(name) {
            Some(id) => Ok(*id),
            None if at_default => self.add(name, name.to_owned(), default.1.clone()),
            None => {
                let hint = nearest(name, self.raw.proxies.iter().map(|it| it.name.as_str()));
                Err(Invalid::new(key, format!("there is no {name:?} among proxies{hint}")))
            }
        }
    }

    /// Takes note of which are asked about the rooms of a namespace (none: those without one), which has these
    /// options.
    ///
    /// # Errors
    /// If one is named that is not there, or something is wrong with it.
    pub(super) fn room(
        &mut self,
        namespace: Option<&str>,
        key: &str,
        options: &raw::Channel,
    ) -> Result<(), Invalid> {
        let asked = self.asked_about(key, options)?;
        match namespace {
            None => self.rooms.default = asked,
            Some(_) if asked == RoomProxies::default() => {}
            Some(namespace) => {
                self.rooms.named.insert(namespace.into(), asked);
            }
        }
        Ok(())
    }

    fn asked_about(&mut self, key: &str, options: &raw::Channel) -> Result<RoomProxies, Invalid> {
        let defaults = &self.raw.channel.proxy;
        let mut one = |what: &str, enabled: bool, name: &str, default: &Proxy| {
            let (key, at) = (format!("{key}.{what}_proxy_name"), format!("channel.proxy.{what}"));
            enabled.then(|| self.named(&key, name, (&at, default))).transpose()
        };
        let it = options;
        let stream = one(
            "subscribe_stream",
            it.subscribe_stream_proxy_enabled,
            &it.subscribe_stream_proxy_name,
            &defaults.subscribe_stream,
        )?;
        let asked = RoomProxies {
            subscribe: one(
                "subscribe",
                it.subscribe_proxy_enabled,
                &it.subscribe_proxy_name,
                &defaults.subscribe,
            )?,
            publish: one(
                "publish",
                it.publish_proxy_enabled,
                &it.publish_proxy_name,
                &defaults.publish,
            )?,
            sub_refresh: one(
                "sub_refresh",
                it.sub_refresh_proxy_enabled,
                &it.sub_refresh_proxy_name,
                &defaults.sub_refresh,
            )?,
            stream: stream
                .map(|id| StreamBackend { id, both_ways: it.subscribe_stream_proxy_bidirectional }),
        };
        self.check_stream(key, options, asked)?;
        Ok(asked)
    }

    /// Whether a namespace can have streams of its backend.
    fn check_stream(
        &self,
        key: &str,
        options: &raw::Channel,
        asked: RoomProxies,
    ) -> Result<(), Invalid> {
        let Some(stream) = asked.stream else { return Ok(()) };
        let wrong = |problem: &str| {
            Err(Invalid::new(format!("{key}.subscribe_stream_proxy_enabled"), problem))
        };
        let backend = self.backends.get(usize::from(stream.id.0));
        if backend.is_some_and(|it| it.protocol != Protocol::Grpc) {
            return wrong(
                "needs a backend that is asked by gRPC: an endpoint like grpc://HOST:PORT",
            );
        }
        if asked.subscribe.is_some() {
            return wrong(
                "can't be with subscribe_proxy_enabled: one of the two says who may subscribe",
            );
        }
        if stream.both_ways && asked.publish.is_some() {
            return wrong(
                "can't be bidirectional with publish_proxy_enabled: what clients publish goes to one of the two",
            );
        }
        if options.subscription_type != "stream" {
            return wrong("is for rooms with subscription_type = \"stream\" only");
        }
        Ok(())
    }

    /// Who is asked for the keys of rooms, by this name in the option `key`.
    ///
    /// # Errors
    /// If it is not there, or something is wrong with it.
    pub(super) fn shared_poll(&mut self, key: &str, name: &str) -> Result<BackendId, Invalid> {
        let raw = self.raw;
        self.named(
            key,
            name,
            ("channel.proxy.shared_poll_refresh", &raw.channel.proxy.shared_poll_refresh),
        )
    }

    fn methods(&mut self) -> Result<Methods, Invalid> {
        let rpc = &self.raw.rpc;
        let mut one = |key: &str, enabled: bool, name: &str| {
            let key = format!("{key}.proxy_name");
            enabled.then(|| self.named(&key, name, ("rpc.proxy", &rpc.proxy))).transpose()
        };
        let it = &rpc.without_namespace;
        let default = one("rpc.without_namespace", it.proxy_enabled, &it.proxy_name)?;
        let mut named = BTreeMap::new();
        for (index, it) in rpc.namespaces.iter().enumerate() {
            let key = format!("rpc.namespaces[{index}]");
            check_name(&format!("{key}.name"), &it.name)?;
            let backend = one(&key, it.proxy_enabled, &it.proxy_name)?;
            if named.insert(it.name.as_str().into(), backend).is_some() {
                let problem = format!("{:?} is there twice", it.name);
                return Err(Invalid::new(format!("{key}.name"), problem));
            }
        }
        Ok(Methods { default, named })
    }

    /// All backends, and which are asked about what.
    ///
    /// # Errors
    /// If something is wrong with one.
    pub(super) fn proxies(mut self) -> Result<(Vec<Backend>, Proxies), Invalid> {
        let of_client = &self.raw.client.proxy;
        let (connect, refresh) = (&of_client.connect, &of_client.refresh);
        let key = "client.proxy.connect";
        let connect = (connect.enabled)
            .then(|| self.add(key, key.to_owned(), connect.clone().into()))
            .transpose()?;
        if connect.is_some() && of_client.connect.timeout.0 >= self.raw.client.stale_close_delay.0 {
            let problem = "must be shorter than client.stale_close_delay, when clients that are not connected are closed";
            return Err(Invalid::new(format!("{key}.timeout"), problem));
        }
        let key = "client.proxy.refresh";
        let refresh = (refresh.enabled)
            .then(|| self.add(key, key.to_owned(), refresh.clone().into()))
            .transpose()?;
        let rpc = self.methods()?;
        let after_connect = |index: usize| connect.is_none_or(|it| usize::from(it.0) != index);
        let wants_headers =
            |it: &Backend| !it.http_headers.is_empty() || !it.emulated_headers.is_empty();
        let proxies = Proxies {
            connect,
            refresh,
            rooms: self.rooms,
            rpc,
            http_headers: all(&self.backends, |it| &it.http_headers),
            emulated_headers: all(&self.backends, |it| &it.emulated_headers),
            keeps_headers: (self.backends.iter().enumerate())
                .any(|(index, it)| after_connect(index) && wants_headers(it)),
            keeps_meta: self.backends.iter().any(|it| it.with_meta),
        };
        Ok((self.backends, proxies))
    }
}

fn all(backends: &[Backend], names: impl Fn(&Backend) -> &Vec<String>) -> Vec<String> {
    let mut all: Vec<String> = backends.iter().flat_map(names).cloned().collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl Proxy {
    fn check(&self, name: String) -> Result<Backend, Invalid> {
        let wrong = |key: &str, problem: String| Err(Invalid::new(key, problem));
        let Some((protocol, endpoint)) = self.place() else {
            let problem =
                "needed, as a URL that begins with http:// or https://, or as grpc://HOST:PORT";
            return wrong("endpoint", format!("{problem}; {:?} is none", self.endpoint));
        };
        if self.timeout.0.is_zero() || self.timeout.0.as_secs() > MAX_TIMEOUT {
            return wrong("timeout", format!("more than nothing, and {MAX_TIMEOUT}s at most"));
        }
        if !(1..=10_000).contains(&self.concurrency) {
            return wrong("concurrency", "1 to 10000".to_owned());
        }
        let (key, static_headers) = self.static_headers(protocol);
        for (name, value) in &static_headers {
            let valid = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
            if !valid || !headers::may_go_along(&name.to_ascii_lowercase()) {
                return wrong(key, format!("{name:?} can't be set"));
            }
        }
        let statuses = self.http.status_to_code_transforms.iter().map(status);
        Ok(Backend {
            name,
            protocol,
            endpoint,
            timeout: self.timeout.0,
            http_headers: names("http_headers", &self.http_headers)?,
            emulated_headers: names("emulated_headers", &self.emulated_headers)?,
            static_headers,
            binary: self.binary_encoding,
            with_meta: self.include_connection_meta,
            concurrency: self.concurrency,
            statuses: statuses
                .collect::<Result<_, _>>()
                .map_err(|problem| Invalid::new("http.status_to_code_transforms", problem))?,
        })
    }
}

impl Proxy {
    /// How it is asked, and where; none if the endpoint is no such thing.
    fn place(&self) -> Option<(Protocol, String)> {
        let url = reqwest::Url::parse(&self.endpoint).ok().filter(reqwest::Url::has_host)?;
        match (url.scheme(), url.host_str(), url.port()) {
            ("http" | "https", ..) => Some((Protocol::Http, self.endpoint.clone())),
            ("grpc", Some(host), Some(port)) if ["", "/"].contains(&url.path()) => {
                let scheme = if self.grpc.tls.enabled { "https" } else { "http" };
                Some((Protocol::Grpc, format!("{scheme}://{host}:{port}")))
            }
            _ => None,
        }
    }

    /// What goes along with every question, and which option says it.
    fn static_headers(&self, protocol: Protocol) -> (&'static str, BTreeMap<String, String>) {
        if protocol == Protocol::Http {
            return ("http.static_headers", self.http.static_headers.clone());
        }
        let (key, value) = (&self.grpc.credentials_key, &self.grpc.credentials_value);
        let mut metadata = self.grpc.static_metadata.clone();
        if !key.is_empty() {
            metadata.insert(key.clone(), value.clone());
        }
        ("grpc.static_metadata", metadata)
    }
}

fn names(key: &str, names: &[String]) -> Result<Vec<String>, Invalid> {
    let lower = names.iter().map(|it| it.to_ascii_lowercase());
    let names: Vec<String> = lower.collect();
    let can_go = |it: &&String| HeaderName::try_from(*it).is_ok() && headers::may_go_along(it);
    match names.iter().find(|it| !can_go(it)) {
        Some(name) => Err(Invalid::new(key, format!("{name:?} can't go along"))),
        None => Ok(names),
    }
}

fn status(it: &raw::StatusTransform) -> Result<Status, String> {
    let (error, disconnect) = (&it.to_error, &it.to_disconnect);
    let verdict = match (error.code, disconnect.code) {
        (0, 0) => return Err("to_error.code or to_disconnect.code is needed".to_owned()),
        (0, code) => response::disconnect(code, disconnect.reason.clone()).map(Verdict::Disconnect),
        (code, _) => {
            response::error(code, error.message.clone(), error.temporary).map(Verdict::Error)
        }
    };
    if !(100..600).contains(&it.status_code) || it.status_code == 200 {
        return Err(format!("status_code {} is none, or 200", it.status_code));
    }
    Ok(Status { status: it.status_code, verdict: verdict.map_err(|error| error.to_string())? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(text: &str) -> Result<Config, Problems> {
        let mut raw: Raw = config::Config::builder()
            .add_source(config::File::from_str(text, config::FileFormat::Toml))
            .build()
            .and_then(config::Config::try_deserialize)
            .expect("of the right form");
        raw.http_server.workers = 1;
        Config::check(raw)
    }

    fn key(text: &str) -> String {
        config(text).expect_err("invalid").list()[0].key.clone()
    }

    #[test]
    fn only_backends_that_are_asked_are_there() {
        let text = "
            [client.proxy.connect]
            enabled = true
            endpoint = \"http://a/connect\"
            http_headers = [\"Cookie\"]
            [channel.proxy.publish]
            endpoint = \"http://a/publish\"
            [channel.without_namespace]
            subscribe_proxy_enabled = true
            subscribe_proxy_name = \"other\"
            [[channel.namespaces]]
            name = \"chat\"
            publish_proxy_enabled = true
            [[channel.namespaces]]
            name = \"news\"
            publish_proxy_enabled = true
            subscribe_proxy_enabled = true
            subscribe_proxy_name = \"other\"
            [[proxies]]
            name = \"other\"
            endpoint = \"https://b\"
            include_connection_meta = true
            [[rpc.namespaces]]
            name = \"shop\"
            proxy_enabled = true
            proxy_name = \"other\"
        ";
        let config = config(text).expect("valid");
        let names: Vec<&str> = config.backends.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["other", "channel.proxy.publish", "client.proxy.connect"]);
        let [other, publish, connect] = [0, 1, 2].map(BackendId);
        let chat = config.proxies.rooms.of("chat:a");
        assert_eq!(chat, RoomProxies { publish: Some(publish), ..RoomProxies::default() });
        let news = RoomProxies { subscribe: Some(other), ..chat };
        assert_eq!(config.proxies.rooms.of("news:a"), news);
        let proxies = config.proxies;
        assert_eq!((proxies.connect, proxies.refresh), (Some(connect), None));
        assert_eq!(proxies.rpc.named["shop"], Some(other));
        assert_eq!(proxies.http_headers, ["cookie"]);
        assert!(proxies.keeps_meta && !proxies.keeps_headers);
    }

    #[test]
    fn where_one_is_asked_by_grpc_is_no_path() {
        let backend = |more: &str| {
            let text = format!(
                "[client.proxy.connect]\nenabled = true\nendpoint = \"grpc://a:9000\"\n{more}"
            );
            config(&text).map(|it| it.backends[0].clone())
        };
        let plain = backend("").expect("valid");
        assert_eq!((plain.protocol, plain.endpoint.as_str()), (Protocol::Grpc, "http://a:9000"));
        let more = "http.static_headers = {\"x-a\" = \"1\"}
            grpc = {static_metadata = {\"x-b\" = \"2\"}, credentials_key = \"x-c\", credentials_value = \"3\", tls = {enabled = true}}";
        let it = backend(more).expect("valid");
        assert_eq!(it.endpoint, "https://a:9000");
        let metadata: Vec<_> = it.static_headers.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(metadata, [("x-b", "2"), ("x-c", "3")]);
        let wrong = backend("grpc.static_metadata = {\"grpc-timeout\" = \"1\"}");
        let key = wrong.expect_err("invalid").list()[0].key.clone();
        assert_eq!(key, "client.proxy.connect.grpc.static_metadata");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let connect = |more: &str| format!("[client.proxy.connect]\nenabled = true\n{more}");
        let url = "endpoint = \"http://a\"\n";
        assert_eq!(key(&connect("")), "client.proxy.connect.endpoint");
        assert_eq!(key(&connect("endpoint = \"grpc://a\"")), "client.proxy.connect.endpoint");
        assert_eq!(key(&connect("endpoint = \"grpc://a:1/x\"")), "client.proxy.connect.endpoint");
        for (more, wrong) in [
            ("timeout = \"0s\"", "timeout"),
            ("timeout = \"10s\"", "timeout"),
            ("concurrency = 0", "concurrency"),
            ("http_headers = [\"Host\"]", "http_headers"),
            ("emulated_headers = [\"a b\"]", "emulated_headers"),
            ("http.static_headers = { \"Content-Type\" = \"x\" }", "http.static_headers"),
            (
                "http.status_to_code_transforms = [{ status_code = 404 }]",
                "http.status_to_code_transforms",
            ),
        ] {
            let text = connect(&format!("{url}{more}"));
            assert_eq!(key(&text), format!("client.proxy.connect.{wrong}"), "{more}");
        }
        let room = "[channel.without_namespace]\npublish_proxy_enabled = true\n";
        assert_eq!(key(room), "channel.proxy.publish.endpoint");
        let room = format!("{room}publish_proxy_name = \"nobody\"");
        assert_eq!(key(&room), "channel.without_namespace.publish_proxy_name");
        let twice = "[[proxies]]\nname = \"ab\"\nendpoint = \"http://a\"\n".repeat(2);
        assert_eq!(key(&twice), "proxies[1].name");
    }
}
