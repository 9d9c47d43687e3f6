//! `/wait`: delays the answer until a stage has reached a position.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Shared;
use crate::admin::status::{Stage, WatermarksView};
use crate::types::lsn::Lsn;

/// The longest wait; a longer timeout is reduced to it.
pub const TIMEOUT_MAX: Duration = Duration::from_mins(1);

/// The wait if the caller gives no timeout.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to a wait that timed out.
#[derive(serde::Serialize)]
struct Late {
    #[serde(flatten)]
    watermarks: WatermarksView,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// A hint and not a refusal: the log may have grown since the server last reported its end.
fn beyond(end: Lsn) -> String {
    format!(
        "the server has reported its log only up to {end}: the token may be from another server, or its commit is lost"
    )
}

struct Asked {
    stage: Stage,
    at: Lsn,
    timeout: Duration,
}

pub(super) async fn wait(
    State(mut shared): State<Shared>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Response {
    let asked = match read(&parameters) {
        Ok(asked) => asked,
        Err(reason) => return (StatusCode::BAD_REQUEST, reason + "\n").into_response(),
    };
    let Ok(_place) = shared.waits.clone().try_acquire_owned() else {
        let text =
            "every connection for waiting callers is in use; try again later, or wait in SQL with coherd.wait()\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let reached = tokio::select! {
        biased;
        reached = tokio::time::timeout(asked.timeout, shared.board.reached(asked.stage, asked.at)) => reached,
        _ = shared.ending.wait_for(|ending| *ending) => {
            return (StatusCode::SERVICE_UNAVAILABLE, "this instance is about to end; ask again\n").into_response();
        }
    };
    let watermarks = WatermarksView::of(&shared.board.watermarks());
    match reached {
        Ok(Ok(())) => (StatusCode::OK, Json(watermarks)).into_response(),
        Ok(Err(many)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{many}\n")).into_response(),
        Err(_elapsed) => {
            let end = shared.board.status().wal_end;
            let hint = (end > Lsn::ZERO && asked.at > end).then(|| beyond(end));
            (StatusCode::GATEWAY_TIMEOUT, Json(Late { watermarks, hint })).into_response()
        }
    }
}

fn read(parameters: &[(String, String)]) -> Result<Asked, String> {
    let (mut at, mut timeout, mut stage) = (None, TIMEOUT, Stage::Settled);
    for (name, value) in parameters {
        match name.as_str() {
            "token" => at = Some(value.parse::<Lsn>().map_err(|error| format!("token: {error}"))?),
            "timeout" => timeout = parse_timeout(value)?,
            "stage" => {
                stage = [Stage::Applied, Stage::Settled]
                    .into_iter()
                    .find(|stage| stage.name() == value)
                    .ok_or_else(|| format!("stage: {:?} is none; write applied or settled", short(value)))?;
            }
            other => {
                return Err(format!("{:?} is no parameter of /wait; there are token, timeout and stage", short(other)));
            }
        }
    }
    let at =
        at.ok_or("token is missing; give the LSN that SELECT coherd.token() gave, e.g. /wait?token=16/B374D848")?;
    if at < Lsn::LEAST {
        return Err(format!(
            "token: {at} is no position in a server's log; give what SELECT coherd.token() gave. Seconds are timeout=5s"
        ));
    }
    Ok(Asked { stage, at, timeout: timeout.min(TIMEOUT_MAX) })
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let duration = number.parse().ok().and_then(|number| match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    });
    duration.ok_or_else(|| format!("timeout: {:?} is no duration; write e.g. 500ms or 2s", short(text)))
}

/// Text from the caller, cut to a length that an answer may repeat.
fn short(text: &str) -> String {
    text.chars().take(40).collect()
}
