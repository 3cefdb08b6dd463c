//! SHELL. The demo: a chat page, the list of nodes, and a token for whoever gives a name. The page follows the
//! list by the [`feed`] at [`FEED`], and asks for it where it gets none.

use actix_web::{HttpResponse, http::header, web};
use serde::Deserialize;
use serde_json::json;

use super::{feed, parts::Parts};
use crate::{access::sign::sign as signed, runtime::clock};

/// Where the page finds the feed; [`upgrade`](super::upgrade) opens it.
pub const FEED: &str = "/demo/feed";

/// How long a demo token is good for, in seconds.
const TOKEN_LIFE: i64 = 24 * 3600;
const POLICY: &str = "default-src 'self'; connect-src *";

/// The demo's pages, if they are on.
pub fn routes(app: &mut web::ServiceConfig, enabled: bool) {
    if !enabled {
        return;
    }
    let files = [
        ("/", "text/html; charset=utf-8", include_str!("pages/chat.html")),
        ("/chat.css", "text/css; charset=utf-8", include_str!("pages/chat.css")),
        ("/chat.js", "text/javascript; charset=utf-8", include_str!("pages/chat.js")),
        ("/roomcast.js", "text/javascript; charset=utf-8", include_str!("pages/roomcast.js")),
    ];
    for (path, kind, content) in files {
        let page = move || async move {
            HttpResponse::Ok()
                .content_type(kind)
                .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
                .insert_header((header::CACHE_CONTROL, "no-cache"))
                .body(content)
        };
        app.route(path, web::get().to(page));
    }
    app.route("/favicon.ico", web::get().to(HttpResponse::NoContent))
        .route("/demo/nodes", web::get().to(nodes))
        .route("/demo/token", web::get().to(sign));
}

async fn nodes(parts: web::Data<Parts>) -> HttpResponse {
    let description = feed::description(&parts.config.name, &parts.view.borrow());
    open_to_all(HttpResponse::Ok()).json(description)
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
}

async fn sign(parts: web::Data<Parts>, wanted: web::Query<Wanted>) -> HttpResponse {
    let name = wanted.name.trim();
    if name.is_empty() || name.len() > 64 {
        return open_to_all(HttpResponse::BadRequest()).body("a name of 1 to 64 bytes, please\n");
    }
    let exp = clock::unix_seconds() + TOKEN_LIFE;
    let claims = json!({"sub": name, "info": {"name": name}, "exp": exp});
    match signed(parts.config.tokens.secret(), &claims) {
        Ok(token) => open_to_all(HttpResponse::Ok()).json(json!({"token": token})),
        Err(error) => {
            tracing::error!(%error, "a demo token could not be signed");
            HttpResponse::InternalServerError().finish()
        }
    }
}

/// A page of one node may ask another.
fn open_to_all(mut response: actix_web::HttpResponseBuilder) -> actix_web::HttpResponseBuilder {
    response.insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"));
    response
}
