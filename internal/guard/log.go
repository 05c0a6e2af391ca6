package guard

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	maxRepeats  = 5   // records with the same message that LimitLog passes per minute
	maxMessages = 100 // different messages that LimitLog counts; it counts the rest together
)

// LimitLog returns a handler that passes records to next, but at most 5 per minute with the same
// message, so that repeated requests can't fill the log. At the end of each minute, it logs how
// many records it suppressed. It passes all records below slog.LevelInfo.
func LimitLog(next slog.Handler) slog.Handler {
	return limitedLog{next, &repeats{log: slog.New(next), seen: make(map[string]int)}}
}

type limitedLog struct {
	slog.Handler
	repeats *repeats // shared by all handlers that WithAttrs and WithGroup return
}

func (l limitedLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo && !l.repeats.allow(r.Message) {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

func (l limitedLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return limitedLog{l.Handler.WithAttrs(attrs), l.repeats}
}

func (l limitedLog) WithGroup(name string) slog.Handler {
	return limitedLog{l.Handler.WithGroup(name), l.repeats}
}

// repeats counts the records in the current minute.
type repeats struct {
	log  *slog.Logger
	mu   sync.Mutex
	seen map[string]int // numbers of records by message
}

// allow counts a record and reports whether it may be logged.
func (p *repeats) allow(message string) bool {
	// Many net/http messages contain an address. Count those with the same text before it as one.
	if i := strings.IndexAny(message, "0123456789["); i >= 0 && strings.HasPrefix(message, "http: ") {
		message = message[:i]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.seen) == 0 {
		time.AfterFunc(time.Minute, p.summarize)
	}
	if len(p.seen) >= maxMessages && p.seen[message] == 0 {
		message = "others"
	}
	p.seen[message]++
	return p.seen[message] <= maxRepeats
}

// summarize logs how many records were suppressed, and resets the counts.
func (p *repeats) summarize() {
	var more []any
	p.mu.Lock()
	for message, n := range p.seen {
		if n > maxRepeats {
			more = append(more, message, n-maxRepeats)
		}
	}
	clear(p.seen)
	p.mu.Unlock()
	if more != nil {
		p.log.Warn("suppressed repeated messages in the last minute", more...)
	}
}
