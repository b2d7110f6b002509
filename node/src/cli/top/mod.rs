//! `skein top`.

mod draw;
mod screen;

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};

use self::screen::{Next, Screen, Seen, View};
use crate::cli::{
    client::{self, Client},
    context::Context,
    error::{Error, Result},
    output::{Format, Table},
};

/// How often the mesh is asked.
const REFRESH: Duration = Duration::from_secs(2);
/// How long all its answers may take.
const ANSWERS: Duration = Duration::from_secs(15);
/// Pause between two looks for keys.
const KEYS: Duration = Duration::from_millis(30);

/// Shows services by what is asked of them, endpoints and nodes, as they are now: sorted, filtered, one opened after the other.
/// Not on a terminal, or with `-o json`, once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein top
  skein top -o json")]
pub struct Args {}

/// Runs the command.
pub(super) async fn run(Args {}: Args, ctx: &Context) -> Result<()> {
    let mut client = client::connect(ctx).await?;
    if ctx.output.format != Format::Table {
        let traffic: serde_json::Value = client.get("/v1/traffic").await?;
        return ctx.output.show(&traffic, String::new);
    }
    let seen = ask(&mut client).await?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return ctx.output.text(&ctx.output.render(&table(&Screen::new(seen))));
    }
    let mut terminal = ratatui::init();
    let result = live(&mut terminal, client, ctx, Screen::new(seen)).await;
    ratatui::restore();
    result
}

async fn ask(client: &mut Client) -> Result<Seen> {
    Ok(Seen {
        status: client.get("/v1/status").await?,
        services: client.get("/v1/services").await?,
        endpoints: client.get("/v1/endpoints").await?,
        members: client.get("/v1/members").await?,
        traffic: client.get("/v1/traffic").await?,
    })
}

/// Draws, reads keys, asks again, until told to end. Keys are read while a node does not answer, too.
async fn live(terminal: &mut DefaultTerminal, client: Client, ctx: &Context, mut screen: Screen) -> Result<()> {
    let mut client = Some(client);
    loop {
        let lost = client.is_none();
        let asked = {
            let mut asking = std::pin::pin!(again(&mut client, ctx));
            loop {
                if screen.take_stale() {
                    terminal.draw(|frame| draw::screen(frame, &screen)).map_err(|error| broken(&error))?;
                }
                tokio::select! {
                    asked = &mut asking => break asked,
                    () = tokio::time::sleep(KEYS) => {}
                }
                if keys(&mut screen)? == Next::End {
                    return Ok(());
                }
            }
        };
        if lost {
            // Whom else was asked may have been said on the screen.
            terminal.clear().map_err(|error| broken(&error))?;
        }
        match asked {
            Ok(seen) => screen.refresh(seen),
            Err(error) => screen.failed(&error.message),
        }
    }
}

/// Asks after a while, over a new connection if the last one was lost.
async fn again(client: &mut Option<Client>, ctx: &Context) -> Result<Seen> {
    tokio::time::sleep(REFRESH).await;
    let mut asked = match client.take() {
        Some(client) => client,
        None => client::connect(ctx).await?,
    };
    let seen = match tokio::time::timeout(ANSWERS, ask(&mut asked)).await {
        Ok(seen) => seen,
        Err(_) => Err(Error::new("unreachable", format!("{} does not answer", asked.reached()))),
    };
    if seen.as_ref().err().is_none_or(|error| error.code != "unreachable") {
        *client = Some(asked);
    }
    seen
}

/// What keys that were pressed do.
fn keys(screen: &mut Screen) -> Result<Next> {
    while event::poll(Duration::ZERO).map_err(|error| broken(&error))? {
        match event::read().map_err(|error| broken(&error))? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                if screen.key(key.code, key.modifiers) == Next::End {
                    return Ok(Next::End);
                }
            }
            Event::Resize(..) => screen.resized(),
            Event::Key(_) | Event::Mouse(_) | Event::Paste(_) | Event::FocusGained | Event::FocusLost => {}
        }
    }
    Ok(Next::Stay)
}

fn broken(error: &io::Error) -> Error {
    Error::new("failed", format!("the terminal does not do what it should: {error}"))
}

/// What there is of services, once.
fn table(screen: &Screen) -> Table {
    let mut table = Table::new(View::Services.heads());
    for row in screen.rows() {
        table.row(row.cells.clone());
    }
    table
}
