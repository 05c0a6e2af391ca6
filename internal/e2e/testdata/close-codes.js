// Opens WebSockets to the server at base, makes the server close each with a different code, and
// checks the codes that the page receives. Resolves to a list of the wrong ones.
async (base, key) => {
  const url = (path) => base.replace('http', 'ws') + path;
  const working = `/app/${key}?protocol=7`;
  const cases = {
    4001: [`/app/other?protocol=7`],
    4006: [`/app/${key}?protocol=seven`],
    4007: [`/app/${key}?protocol=8`],
    4008: [`/app/${key}`],
    4100: [working, (socket) => { for (let i = 0; i < 600; i++) socket.send(' '.repeat(100) + '{}'); }],
    1003: [working, (socket) => socket.send(new Uint8Array(1))],
    1009: [working, (socket) => socket.send('x'.repeat(9000))],
    1000: [working, (socket) => socket.close(1000)],
  };
  const closed = (path, provoke) => new Promise((resolve) => {
    const socket = new WebSocket(url(path));
    let error = false;
    socket.onerror = () => { error = true; };
    socket.onclose = ({ code, wasClean }) => resolve({ code, wasClean, error });
    socket.onmessage = ({ data }) => {
      if (data.includes('connection_established')) provoke?.(socket);
    };
  });
  // One more WebSocket, which closes when the test stops the server.
  window.last = new Promise((resolve) => {
    const socket = new WebSocket(url(working));
    socket.onclose = ({ code, wasClean }) => resolve(JSON.stringify({ code, wasClean, error: false }));
  });
  const wrong = [];
  for (const [code, [path, provoke]] of Object.entries(cases)) {
    const want = JSON.stringify({ code: Number(code), wasClean: true, error: false });
    const got = JSON.stringify(await closed(path, provoke));
    if (got !== want) wrong.push(`got ${got}, want ${want}`);
  }
  return wrong.join('\n') || 'all closed as expected';
}
