//! SHELL. What browsers ask before a page may talk to another site, and before it may read what
//! that answers. WebSockets need none of it; requests do.

use actix_http::{RequestHead, StatusCode};
use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::header::{self, HeaderValue},
    web,
};

use super::{
    admission::{self, Refusal},
    parts::Parts,
};

/// How long a browser may cache the answer, in seconds.
const MAX_AGE: &str = "300";

/// Lets the page that the request comes from read the answer. Only for one whose origin is allowed.
pub fn allow<'a>(
    response: &'a mut HttpResponseBuilder,
    head: &RequestHead,
) -> &'a mut HttpResponseBuilder {
    if let Some(origin) = head.headers().get(header::ORIGIN) {
        response
            .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()))
            .insert_header((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"))
            .insert_header((header::VARY, "Origin"));
    }
    response
}

/// The answer to a browser that asks what a page may send.
pub async fn preflight(parts: web::Data<Parts>, request: HttpRequest) -> HttpResponse {
    let head = request.head();
    if let Err(refusal) = admission::check_origin(&parts, head) {
        return refuse(&parts, head, refusal);
    }
    let mut response = HttpResponse::NoContent();
    allow(&mut response, head)
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, MAX_AGE))
        .insert_header((
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, OPTIONS"),
        ));
    if let Some(asked) = head.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        response.insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone()));
    }
    response.finish()
}

/// The answer to a client that is not let in; a page that may connect may read it. Its connection ends with it: what
/// else comes is not read.
pub fn refuse(parts: &Parts, head: &RequestHead, Refusal { status, why }: Refusal) -> HttpResponse {
    let mut response = HttpResponse::build(status);
    if admission::is_origin_allowed(parts, head) {
        allow(&mut response, head);
    }
    response.force_close().content_type("text/plain; charset=utf-8").body(why)
}

/// The answer where nothing is.
pub async fn nothing_here(parts: web::Data<Parts>, request: HttpRequest) -> HttpResponse {
    let why = format!("nothing is served at {}, or not for {}", request.path(), request.method());
    refuse(&parts, request.head(), Refusal::new(StatusCode::NOT_FOUND, why))
}
