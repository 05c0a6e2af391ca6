// Opens WebSockets to the server at base, and one to the impatient server, makes the server close each with a different
// code, and resolves to a list of the unexpected closes. From an opaque origin, the server accepts none.
async (base, impatient) => {
  const working = `${base}/app/local?protocol=7`;
  const cases = origin === 'null' ? { 4009: [working] } : {
    4001: [`${base}/app/other?protocol=7`],
    4006: [`${base}/app/local?protocol=seven`],
    4007: [`${base}/app/local?protocol=8`],
    4008: [`${base}/app/local`],
    4100: [working, (socket) => { for (let i = 0; i < 600; i++) socket.send(' '.repeat(100) + '{}'); }],
    1003: [working, (socket) => socket.send(new Uint8Array(1))],
    1009: [working, (socket) => socket.send('x'.repeat(9000))],
    1000: [working, (socket) => socket.close(1000)],
    4201: [`${impatient}/app/local?protocol=7`],
  };
  const closed = ([url, provoke]) => new Promise((resolve) => {
    const socket = new WebSocket(url.replace('http', 'ws'));
    let error = '';
    socket.onerror = () => { error = ' after an error'; };
    socket.onclose = ({ code, wasClean }) => resolve(`${code} ${wasClean}${error}`);
    socket.onmessage = ({ data }) => data.includes('connection_established') && provoke?.(socket);
  });
  const wrong = [];
  for (const code in cases) {
    const got = await closed(cases[code]);
    if (got !== `${code} true`) wrong.push(`got ${got}, want ${code} true`);
  }
  return wrong.join('\n') || 'closed as expected';
}
