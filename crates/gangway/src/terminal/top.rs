//! `gangway top`: the queue and the nodes on the whole screen, drawn anew every two seconds.
//!
//! What is seen is a value ([`View`]) and [`draw`] only draws it; keys change the value. When the desk cannot be asked,
//! the last answer stays, with the reason above it.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gangway_core::desk::{NodeRow, Row as Job};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Table};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::ask::{self, Desk};
use super::show;
use super::time::{ahead, since};
use super::{Failure, colours};
use crate::config::TerminalFlags;

/// Between two questions.
const EVERY: Duration = Duration::from_secs(2);
/// How soon it is noticed that nobody wants keys any more.
const KEYS: Duration = Duration::from_millis(200);

/// What is on the screen.
#[derive(Default)]
pub(super) struct View {
    pub(super) jobs: Vec<Job>,
    pub(super) nodes: Vec<NodeRow>,
    pub(super) now: i64,
    pub(super) age: i64,
    /// Why the desk could not be asked; empty where it could.
    pub(super) problem: String,
    /// The nodes are shown in place of the queue.
    pub(super) nodes_shown: bool,
    /// So many lines are above the first one shown.
    pub(super) above: usize,
    /// Whether there are colours.
    pub(super) colours: bool,
}

/// Runs until q.
pub(super) async fn run(flags: &TerminalFlags) -> Result<(), Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "top needs a terminal; `gangway queue -o json` is for programs".to_owned(),
        ));
    }
    let mut desk = ask::desk(flags).await?;
    let mut view = View { colours: colours(), ..View::default() };
    // Whoever cannot be asked at the start is no screen to look at.
    view.renew(&mut desk).await?;
    let over = Arc::new(AtomicBool::new(false));
    let mut keys = keys(over.clone());
    let mut terminal = ratatui::try_init()?;
    let looked = look(&mut terminal, &mut view, &mut desk, &mut keys).await;
    over.store(true, Ordering::Relaxed);
    ratatui::restore();
    looked
}

async fn look(
    terminal: &mut ratatui::DefaultTerminal,
    view: &mut View,
    desk: &mut Desk,
    keys: &mut mpsc::Receiver<Event>,
) -> Result<(), Failure> {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every.tick().await;
    loop {
        terminal.draw(|frame| draw(frame, view))?;
        tokio::select! {
            key = keys.recv() => match key {
                Some(key) if view.take(&key) => return Ok(()),
                Some(_) => {}
                None => return Ok(()),
            },
            _ = every.tick() => {
                if let Err(failure) = view.renew(desk).await {
                    view.problem = failure.to_string();
                }
            }
        }
    }
}

/// Keys as they are pressed: reading them blocks, so it has a thread of its own.
fn keys(over: Arc<AtomicBool>) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            let key = match event::poll(KEYS) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let told = key.is_ok_and(|key| sender.blocking_send(key).is_ok());
            if !told {
                return;
            }
        }
    });
    receiver
}

impl View {
    async fn renew(&mut self, desk: &mut Desk) -> Result<(), Failure> {
        let queue = desk.queue().await?;
        (self.jobs, self.now, self.age) = (queue.said, queue.now, queue.age);
        self.nodes = desk.nodes().await?.said;
        self.problem.clear();
        Ok(())
    }

    /// Does what a key says; true where it says to leave.
    pub(super) fn take(&mut self, event: &Event) -> bool {
        let Event::Key(key) = event else { return false };
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let lines = if self.nodes_shown { self.node_lines().len() } else { self.jobs.len() };
        let last = lines.saturating_sub(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Tab => (self.nodes_shown, self.above) = (!self.nodes_shown, 0),
            KeyCode::Down | KeyCode::Char('j') => self.above = (self.above + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.above = self.above.saturating_sub(1),
            KeyCode::PageDown => self.above = (self.above + 20).min(last),
            KeyCode::PageUp => self.above = self.above.saturating_sub(20),
            KeyCode::Home | KeyCode::Char('g') => self.above = 0,
            KeyCode::End | KeyCode::Char('G') => self.above = last,
            _ => {}
        }
        false
    }

    /// One line for each holder of each node.
    fn node_lines(&self) -> Vec<[String; 6]> {
        let mut lines = Vec::new();
        for node in &self.nodes {
            let gpus = format!(
                "{}/{}",
                node.gpus as usize - node.free.len().min(node.gpus as usize),
                node.gpus
            );
            let held = node.holders.iter().map(|one| {
                (gangway_core::place::ranges(&one.gpus), show::holder(one), one.user.clone())
            });
            let mut held: Vec<_> = held.collect();
            if held.is_empty() {
                held.push(Default::default());
            }
            for (i, (indexes, who, user)) in held.into_iter().enumerate() {
                let once = |text: &str| if i == 0 { text.to_owned() } else { String::new() };
                lines.push([once(&node.name), once(&node.state), once(&gpus), indexes, who, user]);
            }
        }
        lines
    }

    fn style(&self, state: &str) -> Style {
        match state {
            _ if !self.colours => Style::default(),
            "RUNNING" => Style::default().fg(Color::Green),
            "PENDING" => Style::default().fg(Color::Yellow),
            state if state.contains("DRAIN") || state.contains("DOWN") => {
                Style::default().fg(Color::Red)
            }
            _ => Style::default(),
        }
    }

    /// Who holds how much, in one line.
    fn summary(&self) -> String {
        let count = |waits: bool| self.jobs.iter().filter(|job| job.waits() == waits).count();
        let all: u32 = self.nodes.iter().map(|node| node.gpus).sum();
        let free: usize = self.nodes.iter().map(|node| node.free.len()).sum();
        format!(
            "{} running, {} waiting · {} nodes, {free} of {all} GPUs free",
            count(false),
            count(true),
            self.nodes.len()
        )
    }
}

/// Draws what is seen.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let areas =
        Layout::vertical([Constraint::Length(1), Constraint::Min(3), Constraint::Length(1)]);
    let [top, middle, bottom] = areas.areas(frame.area());
    let bold = Style::default().add_modifier(Modifier::BOLD);
    let head = if view.problem.is_empty() {
        Line::styled(format!("gangway  {}  {}", view.summary(), show::age(view.age)), bold)
    } else {
        let style = if view.colours { bold.fg(Color::Red) } else { bold };
        Line::styled(format!("gangway  {}", view.problem), style)
    };
    frame.render_widget(Paragraph::new(head), top);
    if view.nodes_shown {
        frame.render_widget(nodes(view), middle);
    } else {
        frame.render_widget(jobs(view), middle);
    }
    let keys = "q leave · tab queue/nodes · ↑↓ PgUp PgDn scroll";
    frame.render_widget(Paragraph::new(keys), bottom);
}

fn jobs(view: &View) -> Table<'_> {
    let rows = view.jobs.iter().skip(view.above).map(|job| {
        let start =
            if job.waits() { ahead(job.start, view.now) } else { since(job.start, view.now) };
        let position = if job.position > 0 { job.position.to_string() } else { String::new() };
        let (nodes, gpus) = (job.nodes.to_string(), job.gpus.to_string());
        Row::new([
            position,
            if job.job > 0 { job.job.to_string() } else { String::new() },
            job.path(),
            job.partition.clone(),
            job.user.clone(),
            job.state.clone(),
            nodes,
            gpus,
            job.reason.clone(),
            start,
        ])
        .style(view.style(&job.state))
    });
    let widths = [
        Constraint::Length(5),
        Constraint::Length(9),
        Constraint::Min(16),
        Constraint::Length(12),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(18),
        Constraint::Length(12),
    ];
    table(
        Table::new(rows, widths),
        [
            "POS",
            "JOB",
            "GANG|NAME",
            "PARTITION",
            "USER",
            "STATE",
            "NODES",
            "GPUS",
            "REASON",
            "START",
        ],
        "queue",
    )
}

fn nodes(view: &View) -> Table<'_> {
    let rows = view.node_lines().into_iter().skip(view.above).map(|line| {
        let style = view.style(&line[1]);
        Row::new(line).style(style)
    });
    let widths = [
        Constraint::Length(16),
        Constraint::Length(18),
        Constraint::Length(7),
        Constraint::Length(12),
        Constraint::Min(20),
        Constraint::Length(12),
    ];
    table(Table::new(rows, widths), ["NODE", "STATE", "GPUS", "HELD", "HOLDER", "USER"], "nodes")
}

fn table<'a, const N: usize>(
    table: Table<'a>,
    head: [&'static str; N],
    title: &'static str,
) -> Table<'a> {
    let head = Row::new(head).style(Style::default().add_modifier(Modifier::DIM));
    table.header(head).block(Block::bordered().title(title))
}
