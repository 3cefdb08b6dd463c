//! SHELL. What operators and their tools ask: is it well, and what does it count.

use actix_web::{HttpResponse, web};

use super::http::Parts;

/// `/health` and `/metrics`.
pub fn routes(app: &mut web::ServiceConfig) {
    // Some load balancers ask by HEAD.
    app.route("/health", web::get().to(health))
        .route("/health", web::head().to(health))
        .route("/metrics", web::get().to(metrics));
}

async fn health() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body("{}")
}

async fn metrics(parts: web::Data<Parts>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(parts.metrics.render())
}
