//! `skein top`.

mod draw;
mod screen;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};

use self::screen::{Next, Screen, Seen, View};
use crate::{
    cli::{
        client::{self, Client},
        context::Context,
        error::{Error, Result},
        output::{Format, Table},
    },
    clock::monotonic,
};

/// How often the mesh is asked.
const REFRESH: Duration = Duration::from_secs(2);
/// How long a key is waited for before the next look at the clock.
const KEY: Duration = Duration::from_millis(100);

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
    let result = live(&mut terminal, &mut client, Screen::new(seen)).await;
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

/// Draws, reads keys, asks again, until told to end.
async fn live(terminal: &mut DefaultTerminal, client: &mut Client, mut screen: Screen) -> Result<()> {
    let mut asked = monotonic();
    loop {
        terminal.draw(|frame| draw::screen(frame, &screen)).map_err(|error| broken(&error))?;
        match key(&mut screen)? {
            Next::Stay => {}
            Next::End => return Ok(()),
        }
        if due(asked, monotonic()) {
            match ask(client).await {
                Ok(seen) => screen.refresh(seen),
                Err(error) => screen.failed(&error.message),
            }
            asked = monotonic();
        }
    }
}

fn due(asked: Instant, now: Instant) -> bool {
    now.duration_since(asked) >= REFRESH
}

/// The next key, if one is pressed soon.
fn key(screen: &mut Screen) -> Result<Next> {
    if !event::poll(KEY).map_err(|error| broken(&error))? {
        return Ok(Next::Stay);
    }
    match event::read().map_err(|error| broken(&error))? {
        Event::Key(key) if key.kind != KeyEventKind::Release => Ok(screen.key(key.code, key.modifiers)),
        Event::Key(_)
        | Event::Resize(..)
        | Event::Mouse(_)
        | Event::Paste(_)
        | Event::FocusGained
        | Event::FocusLost => Ok(Next::Stay),
    }
}

fn broken(error: &io::Error) -> Error {
    Error::new("failed", format!("the terminal does not do what it should: {error}"))
}

/// What there is of services, once.
fn table(screen: &Screen) -> Table {
    let mut table = Table::new(View::Services.heads());
    for row in screen.rows() {
        table.row(row.cells);
    }
    table
}
