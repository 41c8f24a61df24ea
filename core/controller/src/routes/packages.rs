//! Packages, up and down.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use tw_api::PackageReply;

use crate::app::App;
use crate::registry::{self, PackageDigest};
use crate::reply::{Answer, Refusal, Reply, invalid};
use crate::status::SHAPE;

pub(super) async fn upload(
    State(app): State<Arc<App>>,
    Path(digest): Path<String>,
    request: Request,
) -> Answer<PackageReply> {
    let mut upload = app.registry.upload(PackageDigest::parse(&digest)?)?;
    let mut body = request.into_body().into_data_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|cause| invalid(&format!("the upload broke off: {cause}")))?;
        upload.write(&piece)?;
    }
    let finished = tokio::task::spawn_blocking(move || upload.finish()).await;
    let size_bytes =
        finished.map_err(|cause| invalid(&format!("the upload broke off: {cause}")))??;
    tracing::info!(%digest, size_bytes, "took a package");
    Ok(Reply(PackageReply {
        version: SHAPE,
        digest,
        size_bytes,
    }))
}

/// Also answers HEAD, so that a caller can ask what is here already.
pub(super) async fn download(
    State(app): State<Arc<App>>,
    Path(digest): Path<String>,
) -> Result<Response, Refusal> {
    let digest = PackageDigest::parse(&digest)?;
    let (file, size_bytes) = app.registry.read(&digest)?;
    app.registry.touch(&digest);
    let headers = [
        (CONTENT_TYPE, "application/x-tar".to_owned()),
        (CONTENT_LENGTH, size_bytes.to_string()),
    ];
    Ok((headers, Body::from_stream(registry::chunks(file))).into_response())
}
