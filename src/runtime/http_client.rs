//! SHELL. How the node calls the application by HTTP.

/// What all clients for such calls have: they follow no redirect, which could lead somewhere that the configuration
/// does not mean, use no proxy, and say who calls.
pub fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("Roomcast/", env!("CARGO_PKG_VERSION")))
}
