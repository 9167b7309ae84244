//! The listener of a running pipeline: what its answers are made from.

use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use sooner_delta::{LakeStore, WaysToWrite};
use sooner_schemas::Lsn;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::cut::position_now;
use super::dead_letters::desk;
use super::sides::Sides;
use super::upkeep::open_lake;
use super::{audit, erase, hold, past_cut_desk, report, tasks};
use crate::config::Config;
use crate::control::Requests;
use crate::cut_desk::CutRequests;
use crate::erasure_desk::ErasureDesk;
use crate::http;
use crate::http::cut_counter::CutCounter;
use crate::http::erasure_view::ErasureView;
use crate::http::inquiry::{HoldVerbs, Inquiry, Records, Verb, Waiting};
use crate::http::live::Live;
use crate::http::shapes::{Origins, Shapes};
use crate::http::topics::TopicView;
use crate::letters::Desk;
use crate::plan::plan;
use crate::side_thread::SideThread;
use crate::status::StatusBoard;
use crate::tasks::desk::TaskDesk;
use crate::trace::aside::follower;
use crate::verifications::ReportsView;
use crate::verify_request::VerifyRequests;
use crate::wanted_entries::Wanted;

/// Listens for HTTP, if that is configured.
pub async fn listen(
    config: &Config,
    (path, sides): (&Path, Sides),
    board: &StatusBoard,
    (live, shapes): (Live, Shapes),
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(settings) = config.http.clone() else { return Ok(None) };
    let listener = http::bind(&settings).await?;
    let (board, requests) = (board.clone(), Requests::new(&config.state_dir));
    let letters = desk(config, sides != Sides::Sink).ok().filter(Desk::has_topic);
    let tracer = follower(path.to_owned(), board.clone());
    let dead_letters = config.kafka.as_ref().and_then(|kafka| kafka.settings.consumer.dead_letters.clone());
    let topics = TopicView::new(config.kafka.as_ref().map(|kafka| kafka.topics.clone()), dead_letters);
    let (planner, records, settings) = (planner(path), records(path), Arc::new(settings));
    let cuts = CutCounter::new(CutRequests::new(&config.state_dir), position(path));
    let reports = ReportsView::new(&config.state_dir);
    let can_verify = sides != Sides::Source && config.source.is_some();
    let verify_requests = can_verify.then(|| VerifyRequests::new(&config.state_dir));
    let (erasing, tasks, beside) = match sides {
        Sides::Source => (ErasureView::new(None), None, Vec::new()),
        Sides::Both | Sides::Sink => deeds(config, path, &board)?,
    };
    let holds = HoldVerbs { add: verb(path, hold_added), release: verb(path, hold_released) };
    let shared = http::Shared {
        board,
        letters,
        tracer,
        topics,
        planner,
        records,
        requests,
        cuts,
        erasing,
        holds,
        tasks,
        reports,
        verify_requests,
        shapes,
        settings,
        live,
    };
    Ok(Some(tokio::spawn(async move {
        // What is done beside the stream goes on as long as it can be asked for.
        let _beside = beside;
        http::serve(listener, shared).await;
    })))
}

/// What is done when somebody asks for it, and takes long: threads of their own for erasures, past cuts and tasks.
fn deeds(
    config: &Config,
    path: &Path,
    board: &StatusBoard,
) -> anyhow::Result<(ErasureView, Option<TaskDesk>, Vec<SideThread>)> {
    let file: Arc<Path> = path.into();
    // What a task has read of a subject must not be written after the search of an erasure.
    let turn: Arc<Mutex<()>> = Arc::default();
    let of_erasures = turn.clone();
    let (desk, erasures) = ErasureDesk::start(&config.state_dir, move |order| {
        let (file, turn) = (file.clone(), of_erasures.clone());
        async move {
            let _turn = turn.lock().await;
            erase::run_order(&Config::load(&file)?, order).await
        }
    })?;
    let past_cuts = past_cut_desk::start(path, CutRequests::new(&config.state_dir), board.clone())?;
    let (tasks, doing) = tasks::start(config, path, turn)?;
    Ok((ErasureView::new(Some(desk)), Some(tasks), vec![erasures, past_cuts, doing]))
}

async fn hold_added(path: Arc<Path>, asked: Value) -> anyhow::Result<Value> {
    hold::add_asked(&Config::load(&path)?, asked).await
}

async fn hold_released(path: Arc<Path>, asked: Value) -> anyhow::Result<Value> {
    hold::release_asked(&Config::load(&path)?, asked).await
}

/// Does what is asked for with the configuration that the file has by then.
fn verb<F, A>(path: &Path, work: F) -> Verb
where
    F: Fn(Arc<Path>, Value) -> A + Send + Sync + 'static,
    A: Future<Output = anyhow::Result<Value>> + Send + 'static,
{
    let path: Arc<Path> = path.into();
    Verb::new(move |asked| Box::pin(work(path.clone(), asked)))
}

/// What decides about columns where these sides run. A lake that cannot be opened is the sink's own trouble.
pub fn origins(config: &Config, sides: Sides) -> Origins {
    let source = config.source.as_ref().filter(|_| sides != Sides::Sink);
    let lake = config.lake.as_ref().filter(|_| sides != Sides::Source);
    let (has_topics, blocks) = (config.kafka.is_some(), config.tables.clone());
    Origins {
        policies: source.map(|source| if has_topics { source.policies() } else { source.policies_of_lake() }),
        lake: lake.and_then(|lake| LakeStore::open(&lake.url, &lake.s3).ok()),
        has_topics,
        tables: lake.and_then(|_| open_lake(config).ok()),
        ways: WaysToWrite::new(move |table| blocks.ways(table)),
    }
}

/// Says where the log of the source that the file names ends by then.
fn position(path: &Path) -> impl Fn() -> BoxFuture<'static, Result<Option<Lsn>, String>> + Send + Sync + 'static {
    let path: Arc<Path> = path.into();
    move || {
        let path = path.clone();
        Box::pin(async move {
            let position = async { position_now(&Config::load(&path)?).await }.await;
            position.map_err(|error: anyhow::Error| format!("{error:#}"))
        })
    }
}

/// Answers questions from the configuration that the file has by then.
fn inquiry<F, A>(path: &Path, work: F) -> Inquiry
where
    F: Fn(Arc<Path>, String) -> A + Copy + Send + Sync + 'static,
    A: Future<Output = anyhow::Result<Value>> + Send + 'static,
{
    let path: Arc<Path> = path.into();
    Inquiry::new(move |question| {
        let answering = work(path.clone(), question);
        Box::pin(async move { answering.await.map_err(|error| format!("{error:#}")) })
    })
}

/// Works out what the file would do.
fn planner(path: &Path) -> Inquiry {
    inquiry(path, |path, _| async move { Ok(serde_json::to_value(plan(&path, true).await?)?) })
}

fn records(path: &Path) -> Records {
    Records {
        reports: inquiry(path, |path, name| async move { report::described(&Config::load(&path)?, &name).await }),
        making: inquiry(path, |path, name| async move {
            // A run holds on to what may not move between threads.
            let here = tokio::runtime::Handle::current();
            let made = move || here.block_on(async { report::made_now(&Config::load(&path)?, &name).await });
            tokio::task::spawn_blocking(made).await?
        }),
        waiting: Waiting::default(),
        audit: inquiry(path, |path, wanted| async move {
            let (wanted, count): (Wanted, usize) = serde_json::from_str(&wanted)?;
            audit::newest(&Config::load(&path)?, &wanted, count).await
        }),
        audit_check: inquiry(path, |path, _| async move { audit::checked(&Config::load(&path)?).await }),
    }
}
