// The film of a contour over its picture, and a start drawn by hand: a box by dragging, points by clicks.
const FRAME_MS = 80;
const SMALLEST_DRAG = 5;
let timer = null;
let pressed = null;
let points = [];

const part = (name) => element.querySelector(`.stage-${name}`);
const frames = () => JSON.parse(part('film')?.textContent || '[]');

function show(place) {
    const film = frames();
    if (!film.length) return;
    const [title, path] = film[place];
    const isLast = place === film.length - 1;
    part('line').setAttribute('d', path);
    part('edge').setAttribute('d', path);
    part('shade').style.display = isLast ? '' : 'none';
    part('marks').style.display = isLast ? 'none' : '';
    part('range').value = place;
    part('title').textContent = title;
}

function stop() {
    clearInterval(timer);
    timer = null;
    if (part('play')) {
        part('play').textContent = '▶';
        part('play').setAttribute('aria-label', 'Play');
    }
}

function play(place) {
    stop();
    part('play').textContent = '❚❚';
    part('play').setAttribute('aria-label', 'Pause');
    const last = frames().length - 1;
    show(place);
    timer = setInterval(() => {
        if (!element.isConnected || place >= last) return stop();
        place += 1;
        show(place);
    }, FRAME_MS);
}

function begin() {
    stop();
    const answered = JSON.parse(part('picture')?.dataset.points || '[]');
    // A point that was clicked before the answer to the one before it came is still to be answered.
    const isBehind = answered.length && answered.length < points.length
        && answered.every((one, place) => String(one) === String(points[place]));
    if (!isBehind) points = answered;
    const last = frames().length - 1;
    if (last < 0) return;
    const isStill = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    if (isStill || last === 0) show(last);
    else play(0);
}

function placeOf(event) {
    const box = part('picture').getBoundingClientRect();
    const [width, height] = part('picture').dataset.size.split(' ').map(Number);
    const share = (value, side) => Math.min(Math.max(value / side, 0), 1);
    return [share(event.clientX - box.left, box.width) * width,
        share(event.clientY - box.top, box.height) * height].map(Math.round);
}

element.addEventListener('click', (event) => {
    if (!event.target.closest('.stage-play')) return;
    if (timer) return stop();
    const place = Number(part('range').value);
    play(place >= Number(part('range').max) ? 0 : place);
});

element.addEventListener('input', (event) => {
    if (!event.target.closest('.stage-range')) return;
    stop();
    show(Number(event.target.value));
});

element.addEventListener('pointerdown', (event) => {
    if (!event.target.closest('.stage-picture') || event.button !== 0) return;
    event.preventDefault();
    stop();
    pressed = placeOf(event);
    event.target.setPointerCapture?.(event.pointerId);
});

element.addEventListener('pointermove', (event) => {
    if (!pressed) return;
    const [x, y] = placeOf(event);
    const scale = Number(part('picture').dataset.scale);
    const [l, t, r, b] = [pressed[0], pressed[1], x, y].map((value) => Math.round(value * scale));
    part('marks').style.display = '';
    part('marks').setAttribute('d', `M${l},${t}H${r}V${b}H${l}Z`);
});

element.addEventListener('pointerup', (event) => {
    if (!pressed) return;
    const [[x, y], [u, v]] = [pressed, placeOf(event)];
    pressed = null;
    const isBox = Math.abs(u - x) >= SMALLEST_DRAG && Math.abs(v - y) >= SMALLEST_DRAG;
    const box = [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
    points = isBox ? [] : [...points, [x, y]];
    const written = points.map((one) => one.join(' ')).join(', ');
    trigger('click', {pick: isBox ? `box ${box.join(' ')}` : `points ${written}`});
});

element.addEventListener('pointercancel', () => { pressed = null; });

watch('value', begin);
begin();
