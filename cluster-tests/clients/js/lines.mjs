// JSON lines in, JSON lines out: the frame that every driver shares.
//
// In:  {"id": 7, "cmd": "publish", ...}
// Out: {"re": 7, "ok": {...}} or {"re": 7, "error": {"code", "message"}},
//      and events {"ev": "pub", ...} whenever they happen.
import readline from 'node:readline';

export function say(value) {
  process.stdout.write(JSON.stringify(value) + '\n');
}

export function errorOf(e) {
  return { code: e?.code ?? 0, message: String(e?.message ?? e) };
}

/** Runs `commands[cmd]` for every line; ends the process when stdin closes. */
export function serve(commands, onEnd = async () => {}) {
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', async (line) => {
    const request = JSON.parse(line);
    try {
      const run = commands[request.cmd];
      if (!run) throw new Error(`unknown command ${request.cmd}`);
      say({ re: request.id, ok: (await run(request)) ?? {} });
    } catch (e) {
      say({ re: request.id, error: errorOf(e) });
    }
  });
  lines.on('close', async () => {
    await onEnd();
    process.exit(0);
  });
}
