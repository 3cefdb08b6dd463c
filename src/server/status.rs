//! SHELL. What operators and their tools ask: is it well, and what does it count.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use serde_json::{Map, Value, json};

use super::{execution, parts::Parts};
use crate::{cluster::node::NodeId, room::types::Survey};

/// `/health` and `/metrics`.
pub fn routes(app: &mut web::ServiceConfig) {
    // Some load balancers ask by HEAD.
    app.route("/health", web::get().to(health))
        .route("/health", web::head().to(health))
        .route("/metrics", web::get().to(metrics));
}

/// 200 and `{}` when all is well. 503 says that no one should be sent here: the node is leaving, or sees less
/// than half of the nodes that there should be, or, if asked with `?verbose`, does not reach one of them.
async fn health(parts: web::Data<Parts>, request: HttpRequest) -> HttpResponse {
    let mut report = Map::new();
    if parts.leaving.has_begun() {
        report.insert("leaving".into(), true.into());
    }
    let expected = parts.config.cluster.as_ref().map_or(0, |cluster| cluster.expected_nodes);
    let sees = parts.view.borrow().nodes().len();
    if sees * 2 < expected {
        report.insert("minority".into(), json!({"sees": sees, "expected": expected}));
    }
    let mut well = report.is_empty();
    if request.query_string().split('&').any(|it| it == "verbose" || it == "verbose=true") {
        well &= look_around(&parts, &mut report).await;
    }
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(status).json(report)
}

/// Sends a question to every node, through its link and its registry and back, and reports what did not come
/// back: a green light from a node whose messages don't arrive would be worse than none.
async fn look_around(parts: &Parts, report: &mut Map<String, Value>) -> bool {
    report.insert("node".into(), parts.config.name.clone().into());
    let Ok(findings) = execution::survey(parts, Survey::Info).await else {
        report.insert("problem".into(), "the rooms of this node do not answer".into());
        return false;
    };
    let name = |id: &NodeId| match parts.view.borrow().nodes().get(id) {
        Some(info) => Value::from(info.name.clone()),
        None => Value::from(id.to_string()),
    };
    let reached: Vec<Value> = findings.found.iter().map(|(id, _)| name(id)).collect();
    let missing: Vec<Value> = findings.missing.iter().map(name).collect();
    let well = missing.is_empty();
    report.insert("reached".into(), reached.into());
    report.insert("missing".into(), missing.into());
    well
}

async fn metrics(parts: web::Data<Parts>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(parts.metrics.render())
}
