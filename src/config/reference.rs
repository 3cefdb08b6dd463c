//! Every option with its default and its meaning, as a configuration file: made of the types themselves, so
//! that it can't drift.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{raw, typed};

const HEAD: &str = "\
# Every option of Roomcast, its default and what it means. `roomcast defaultconfig` prints this file.
#
# A file holds what differs from the defaults, no more. The variable ROOMCAST_CLIENT_PING_INTERVAL goes over
# client.ping_interval of the file, and so on; flags of `roomcast serve` go over both. JSON and YAML files have
# the same keys. Lists in variables are JSON, or have spaces or commas between their items; a variable that is
# empty is as if it weren't there.
";

/// Keys, and the lines that say what each means.
type Docs = &'static [(&'static str, &'static [&'static str])];

/// What the keys of a section mean, by the section's path.
const SECTIONS: &[(&str, Docs)] = &[
    ("", raw::Raw::DOCS),
    ("node", raw::Node::DOCS),
    ("http_server", raw::HttpServer::DOCS),
    ("http_server.tls", raw::Tls::DOCS),
    ("client", raw::Client::DOCS),
    ("client.token", raw::Token::DOCS),
    ("client.subscription_token", raw::SubscriptionToken::DOCS),
    ("client.subscribe_to_user_personal_channel", raw::PersonalChannel::DOCS),
    ("client.proxy", raw::ClientProxies::DOCS),
    ("client.proxy.connect", raw::ConnectProxy::DOCS),
    ("client.proxy.connect.http", raw::ProxyHttp::DOCS),
    ("client.proxy.connect.grpc", raw::ProxyGrpc::DOCS),
    ("client.proxy.connect.grpc.tls", raw::ProxyTls::DOCS),
    ("client.proxy.refresh", raw::RefreshProxy::DOCS),
    ("client.proxy.refresh.http", raw::ProxyHttp::DOCS),
    ("client.proxy.refresh.grpc", raw::ProxyGrpc::DOCS),
    ("client.proxy.refresh.grpc.tls", raw::ProxyTls::DOCS),
    ("websocket", raw::WebSocket::DOCS),
    ("sse", raw::Streamed::DOCS),
    ("http_stream", raw::Streamed::DOCS),
    ("emulation", raw::Emulation::DOCS),
    ("uni_websocket", raw::OneWaySocket::DOCS),
    ("uni_sse", raw::OneWay::DOCS),
    ("uni_http_stream", raw::OneWay::DOCS),
    ("uni_grpc", raw::UniGrpc::DOCS),
    ("uni_grpc.tls", raw::Tls::DOCS),
    ("channel", raw::Channels::DOCS),
    ("channel.proxy", raw::ChannelProxies::DOCS),
    ("channel.proxy.subscribe", raw::Proxy::DOCS),
    ("channel.proxy.subscribe.http", raw::ProxyHttp::DOCS),
    ("channel.proxy.subscribe.grpc", raw::ProxyGrpc::DOCS),
    ("channel.proxy.subscribe.grpc.tls", raw::ProxyTls::DOCS),
    ("channel.proxy.publish", raw::Proxy::DOCS),
    ("channel.proxy.publish.http", raw::ProxyHttp::DOCS),
    ("channel.proxy.publish.grpc", raw::ProxyGrpc::DOCS),
    ("channel.proxy.publish.grpc.tls", raw::ProxyTls::DOCS),
    ("channel.proxy.sub_refresh", raw::Proxy::DOCS),
    ("channel.proxy.sub_refresh.http", raw::ProxyHttp::DOCS),
    ("channel.proxy.sub_refresh.grpc", raw::ProxyGrpc::DOCS),
    ("channel.proxy.sub_refresh.grpc.tls", raw::ProxyTls::DOCS),
    ("channel.proxy.subscribe_stream", raw::Proxy::DOCS),
    ("channel.proxy.subscribe_stream.http", raw::ProxyHttp::DOCS),
    ("channel.proxy.subscribe_stream.grpc", raw::ProxyGrpc::DOCS),
    ("channel.proxy.subscribe_stream.grpc.tls", raw::ProxyTls::DOCS),
    ("channel.proxy.shared_poll_refresh", raw::Proxy::DOCS),
    ("channel.proxy.shared_poll_refresh.http", raw::ProxyHttp::DOCS),
    ("channel.proxy.shared_poll_refresh.grpc", raw::ProxyGrpc::DOCS),
    ("channel.proxy.shared_poll_refresh.grpc.tls", raw::ProxyTls::DOCS),
    ("channel.without_namespace", raw::Channel::DOCS),
    ("channel.without_namespace.queue", raw::Queue::DOCS),
    ("channel.without_namespace.map", raw::Map::DOCS),
    ("channel.without_namespace.shared_poll", raw::ChannelPoll::DOCS),
    ("shared_poll", raw::SharedPoll::DOCS),
    ("rpc", raw::Rpc::DOCS),
    ("rpc.proxy", raw::Proxy::DOCS),
    ("rpc.proxy.http", raw::ProxyHttp::DOCS),
    ("rpc.proxy.grpc", raw::ProxyGrpc::DOCS),
    ("rpc.proxy.grpc.tls", raw::ProxyTls::DOCS),
    ("rpc.without_namespace", raw::RpcOptions::DOCS),
    ("webhooks", raw::Webhooks::DOCS),
    ("http_api", raw::HttpApi::DOCS),
    ("grpc_api", raw::GrpcApi::DOCS),
    ("grpc_api.tls", raw::Tls::DOCS),
    ("cluster", raw::Cluster::DOCS),
    ("disk", raw::Disk::DOCS),
    ("log", raw::Log::DOCS),
    ("shutdown", raw::Shutdown::DOCS),
    ("demo", raw::Demo::DOCS),
];

/// A configuration file with every option at its default.
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    if let Value::Object(schema) = typed::schema() {
        section(&schema, "", &mut text);
    }
    text
}

fn docs(path: &str) -> Docs {
    SECTIONS.iter().find(|(of, _)| *of == path).map_or(&[], |(_, docs)| docs)
}

/// Writes the options of a section, then the sections in it.
fn section(schema: &Map<String, Value>, path: &str, text: &mut String) {
    let mut inner = Vec::new();
    for (key, lines) in docs(path) {
        let Some(default) = schema.get(*key) else { continue };
        match default {
            Value::Object(section) if !section.is_empty() => inner.push((key, lines, section)),
            default => option(path, key, lines, default, text),
        }
    }
    for (key, lines, schema) in inner {
        let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
        text.push('\n');
        comment(lines, text);
        line(text, format_args!("[{path}]"));
        section(schema, &path, text);
    }
}

fn option(path: &str, key: &str, lines: &[&str], default: &Value, text: &mut String) {
    comment(lines, text);
    match default.as_array().map(|items| items.iter().any(Value::is_object)) {
        Some(true) => {
            let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            line(
                text,
                format_args!("# Each is a table [[{path}]] with a name and options as below."),
            );
        }
        // JSON and TOML write these values alike.
        _ => line(text, format_args!("{key} = {default}")),
    }
}

fn comment(lines: &[&str], text: &mut String) {
    lines.iter().for_each(|it| line(text, format_args!("#{it}")));
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = writeln!(text, "{content}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "config/reference.toml";

    #[test]
    fn the_file_in_config_is_what_is_printed() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
        let kept = std::fs::read_to_string(file).expect("the file is there");
        assert!(kept == reference(), "write it again: cargo run -- defaultconfig > {FILE}");
    }

    #[test]
    fn every_option_is_in_it_and_stands_at_its_default() {
        let printed: Value = config::Config::builder()
            .add_source(config::File::from_str(&reference(), config::FileFormat::Toml))
            .build()
            .and_then(config::Config::try_deserialize)
            .expect("valid TOML");
        let mut defaults = typed::schema();
        for section in ["channel", "rpc"] {
            defaults[section].as_object_mut().expect("a section").remove("namespaces");
        }
        defaults.as_object_mut().expect("sections").remove("proxies");
        assert_eq!(printed, defaults);
    }
}
