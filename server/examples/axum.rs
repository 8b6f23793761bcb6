//! An axum server on a port below 1024, in ten lines: `axum [ENDPOINT]`, or `portgrant exec -l 80 -- axum`. For
//! timeouts, limits and a graceful end see the example `web`.

use axum::{Router, routing::get};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoint = std::env::args().nth(1).unwrap_or("80".to_owned());
    let listener: tokio::net::TcpListener = portgrant_server::listen(&endpoint)?.into_tokio()?;
    let app = Router::new().route("/", get(|| async { "hello\n" }));
    axum::serve(listener, app).await?;
    Ok(())
}
