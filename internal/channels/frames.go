package channels

import (
	"encoding/binary"
	"encoding/json"
	"unicode/utf8"

	"github.com/lxzan/gws"
)

// outgoing is a message to a client. Data is a JSON text; in all events but
// pusher:error a string that holds JSON (see jsonString).
type outgoing struct {
	Event   string          `json:"event"`
	Channel string          `json:"channel,omitempty"`
	Data    json.RawMessage `json:"data"`
}

var (
	pingFrame   = frame(gws.OpcodePing, nil)
	pongMessage = jsonFrame(outgoing{Event: "pusher:pong", Data: jsonString("{}")})
)

// jsonString returns s as a JSON string.
func jsonString(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string can't fail
	return b
}

func jsonFrame(m outgoing) []byte {
	b, _ := json.Marshal(m) // Data is always valid JSON
	return frame(gws.OpcodeText, b)
}

// closeOpcode is the first byte of an unfragmented close frame.
const closeOpcode = 0x80 | byte(gws.OpcodeCloseConnection)

// closeFrame returns a close frame with as much of the reason as fits a control frame
// (125 bytes; RFC 6455, section 5.5).
func closeFrame(code uint16, reason string) []byte {
	for len(reason) > 123 {
		_, size := utf8.DecodeLastRuneInString(reason)
		reason = reason[:len(reason)-size]
	}
	return frame(gws.OpcodeCloseConnection, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}

// parseClose returns the code and the reason in a close frame; the code is 0 if it has none.
func parseClose(frame []byte) (code uint16, reason string) {
	if len(frame) < 4 {
		return 0, ""
	}
	return binary.BigEndian.Uint16(frame[2:]), string(frame[4:])
}

// frame returns an unmasked, unfragmented frame (RFC 6455, section 5.2). gws would
// build and write a frame for each subscriber; here all subscribers share one, and the
// frames that wait for a subscriber share a write.
func frame(op gws.Opcode, payload []byte) []byte {
	const fin = 0x80
	b := make([]byte, 0, 10+len(payload))
	b = append(b, fin|byte(op))
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}
